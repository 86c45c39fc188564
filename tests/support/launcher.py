"""How the tests start MPI programs on this machine."""

import os
import shutil
import subprocess


def mpirun(ranks):
    """The command prefix that starts `ranks` ranks here, more than cores if need be; Open MPI's options only with it.

    Without pml, each start would look for fabrics, for 0.2 s."""
    command = [shutil.which("mpirun") or "mpirun", "-np", str(ranks)]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    if "Open MPI" in version:
        command += ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1"]
        if os.geteuid() == 0:
            command.append("--allow-run-as-root")
    return command
