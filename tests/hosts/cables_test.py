"""A host's cable is pulled in the middle of a run. The side of rank 0 ends within its limit, names the lost host's ranks and writes
the result; the ranks that are cut off end too, while they are cut off.

--all: in every phase; without it, in some. (Other arguments: host_suite.py)
"""

import os
import time

import hosts
from host_suite import HostSuite

REFIT_SECONDS, PHASE_SECONDS = 5, 10
LONG_SECONDS = 60  # of phases in which nothing is to run out
GUARD_SECONDS = 90  # for what ends after its limit, on the busiest machine
PHASES = ("probe", "load", "bulk", "verify")
RANKS_OF_H2 = (2, 3)


def gone(cluster, name):
    return not cluster.processes(name, "refit")


def wait(condition):
    end = time.monotonic() + GUARD_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def pull(suite, cluster, launcher, phase, what):
    """One run whose host h2 is lost in a phase; returns how its launcher ended, None: it goes on without end."""
    result = suite.path(f"{phase}.json")
    if os.path.exists(result):
        os.remove(result)
    others = LONG_SECONDS if phase == "bulk" else PHASE_SECONDS
    paused = suite.start_paused(
        launcher, (phase,), "run", "--model", "smollm2-135m-small", "--train", "TP1", "--gen", "TP3", "--steps", 1, "--warmup", 0,
        "--timeout", REFIT_SECONDS, "--set", f"run.phase_seconds={others}", "--json", f"{phase}.json",
    )  # fmt: skip
    job = paused.job
    if not suite.check(paused.reaches() == phase, f"{what}: no phase {phase}"):
        suite.check(False, what, job.wait())
        return
    begin = time.monotonic()
    cluster.cut("h2")
    try:
        paused.goes_on()
        for name in ("h1", "h2"):
            suite.check(wait(lambda: gone(cluster, name)), f"{what}: refit on {name} still runs {GUARD_SECONDS} s later")  # noqa: B023
            print(f"  {what}: {name} after {time.monotonic() - begin:.1f} s", flush=True)
        document = suite.result(f"{phase}.json")
        error = document.get("error", {})
        suite.check((document.get("status"), document.get("exit_code")) == ("error", 3), f"{what}: {document.get('status')}")
        suite.check(error.get("kind") == "timeout" and error.get("rank") in RANKS_OF_H2, f"{what}: {error}")
        suite.check(f"rank {error.get('rank')} (host h2, pid " in error.get("message", ""), f"{what}: {error}")
        check_launcher(suite, cluster, job, what, error.get("message", "?"))
    finally:
        cluster.mend("h2")


def check_launcher(suite, cluster, job, what, message):
    """srun ends with 3. mpirun waits for its daemon on the lost host (Open MPI): what it has printed is there all the same."""
    if "srun" in job.command:
        ended = job.wait(GUARD_SECONDS)
        suite.check_code(ended, 3, what)
    else:
        job.kill()
        ended = job.wait()
    suite.check(message in ended.err, f"{what}: no '{message}' on stderr", ended)
    for name in ("h1", "h2"):
        left = [shared for shared in os.listdir(f"/proc/{cluster.pids[name]}/root/dev/shm") if "refit" in shared]
        suite.check(not left, f"{what}: {left} in /dev/shm of {name}")


def phases(suite, some):
    return PHASES if "--all" in suite.rest else some


def under_mpirun(suite):
    with suite.hosts(2) as cluster:
        for phase in phases(suite, ("bulk",)):
            pull(suite, cluster, cluster.mpirun("h1:2,h2:2"), phase, f"mpirun {phase}")


def under_slurm(suite):
    with suite.hosts(2) as cluster, hosts.Slurm(cluster) as slurm:
        for phase in phases(suite, ("bulk",)):
            pull(suite, cluster, [*cluster.on("h1"), *slurm.srun("-N2", "-n4", "--ntasks-per-node=2")], phase, f"srun {phase}")
            slurm.wait("nodes", slurm.is_up, GUARD_SECONDS)


if __name__ == "__main__":
    HostSuite(__doc__).main(under_mpirun, under_slurm)
