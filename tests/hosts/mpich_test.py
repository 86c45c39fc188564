"""The same program on another MPI: refit, linked to MPICH, refits between hosts under its mpiexec, and ends as it should when a
rank is killed. (Arguments: host_suite.py, and --refit-mpich EXE)
"""

import os
import signal
import time

from host_suite import HostSuite

RUN = ("run", "--model", "smollm2-135m-small", "--force")


def refits(suite, cluster):
    for executor in ("golden", "p2p", "direct"):
        name = f"{executor}.json"
        job = suite.start_with(
            cluster.mpiexec("h1:2,h2:2"), *RUN, "--train", "TP1", "--gen", "TP3", "--executor", executor, "--bulk", "ffn", "--steps", 1,
            "--warmup", 0, "--json", name,
        )  # fmt: skip
        ended = job.wait()
        if not suite.check_code(ended, 0, executor):
            continue
        result = suite.result(name, ended)
        suite.check("MPICH" in result["environment"]["mpi"], f"{executor}: {result['environment']['mpi']}", ended)
        places = [rank["host"] for rank in result["environment"]["ranks"]]
        suite.check(places == ["h1", "h1", "h2", "h2"], f"{executor}: ranks on {places}", ended)
        suite.check(result["verification"]["elements_wrong"] == 0, f"{executor}: {result['verification']}", ended)


def loses_a_rank(suite, cluster):
    """A rank of the other host is killed in the middle of a refit."""
    paused = suite.start_paused(cluster.mpiexec("h1:2,h2:2"), ("bulk",), *RUN, "--train", "TP1", "--gen", "TP3", "--steps", 1,
                                "--warmup", 0, "--json", "killed.json")  # fmt: skip
    suite.check(paused.reaches() == "bulk", "no phase bulk")
    os.kill(cluster.processes("h2", suite.program)[0], signal.SIGKILL)
    paused.goes_on()
    ended = paused.job.wait()
    suite.check(ended.code not in (0, None), f"a killed rank: exit code {ended.code}", ended)
    time.sleep(1)
    left = [name for name in ("h1", "h2") if cluster.processes(name, suite.program)]
    suite.check(not left, f"ranks are left on {left}", ended)


def under_mpiexec(suite):
    with suite.hosts(2) as cluster:
        refits(suite, cluster)
        loses_a_rank(suite, cluster)


if __name__ == "__main__":
    suite = HostSuite(__doc__)
    suite.args.refit = os.path.abspath(suite.rest[suite.rest.index("--refit-mpich") + 1])
    suite.program = os.path.basename(suite.args.refit)[:15]  # as the kernel has it
    suite.main(under_mpiexec)
