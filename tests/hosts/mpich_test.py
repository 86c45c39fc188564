"""The same program on another MPI: refit, linked to MPICH, refits between hosts under its mpiexec, and ends when a rank is killed.

(Arguments: host_suite.py, and --refit-mpich EXE)

MPICH 4.0.2 (Debian 12) at times does not return from MPI_Finalize between hosts, on UCX's TCP; a program of ten lines shows it, too.
A run that ends by its limit there, with everything proved before, is as good as others here.
"""

import os
import signal
import time

from host_suite import HostSuite

RUN = ("run", "--model", "smollm2-135m-small", "--train", "TP1", "--gen", "TP3", "--steps", 1, "--warmup", 0, "--force",
       "--timeout", 10, "--set", "run.phase_seconds=10")  # fmt: skip
RANKS = "h1:2,h2:2"
GUARD_SECONDS = 60


def refits(suite, cluster):
    for executor in ("p2p", "direct"):
        job = suite.start_with(cluster.mpiexec(RANKS), *RUN, "--executor", executor, "--bulk", "ffn", "--json", f"{executor}.json")
        ended = job.wait()
        result = suite.result(f"{executor}.json", ended)
        if not result:
            continue
        stuck = result.get("error", {}).get("phase") == "MPI_Finalize"
        print(f"  {executor}: {ended.code} after {ended.seconds:.1f} s{', stuck in MPI_Finalize' if stuck else ''}", flush=True)
        suite.check(stuck or ended.code == 0, f"{executor}: exit code {ended.code}", ended)
        suite.check("MPICH" in result["environment"]["mpi"], f"{executor}: {result['environment']['mpi']}", ended)
        places = [rank["host"] for rank in result["environment"]["ranks"]]
        suite.check(places == ["h1", "h1", "h2", "h2"], f"{executor}: ranks on {places}", ended)
        found = result.get("verification", {})
        suite.check((found.get("refits"), found.get("elements_wrong")) == (1, 0), f"{executor}: {found}", ended)


def loses_a_rank(suite, cluster):
    """A rank of the other host is killed in the middle of a refit: mpiexec and all ranks end."""
    paused = suite.start_paused(cluster.mpiexec(RANKS), ("bulk",), *RUN, "--json", "killed.json")
    if not suite.check(paused.reaches() == "bulk", "a killed rank: no phase bulk"):
        suite.check(False, "a killed rank", paused.job.wait())
        return
    os.kill(cluster.processes("h2", suite.program)[0], signal.SIGKILL)
    paused.goes_on()
    ended = paused.job.wait()
    suite.check(ended.code not in (0, None), f"a killed rank: exit code {ended.code}", ended)
    print(f"  a killed rank: {ended.code} after {ended.seconds:.1f} s", flush=True)
    end = time.monotonic() + GUARD_SECONDS
    while left := [name for name in ("h1", "h2") if cluster.processes(name, suite.program)]:
        if not suite.check(time.monotonic() < end, f"a killed rank: ranks are left on {left}", ended):
            break
        time.sleep(0.1)


def under_mpiexec(suite):
    os.environ["UCX_NET_DEVICES"] = "eth0"
    with suite.hosts(2) as cluster:
        refits(suite, cluster)
        loses_a_rank(suite, cluster)


if __name__ == "__main__":
    suite = HostSuite(__doc__)
    suite.args.refit = os.path.abspath(suite.rest[suite.rest.index("--refit-mpich") + 1])
    suite.program = os.path.basename(suite.args.refit)[:15]  # as the kernel has it
    suite.main(under_mpiexec)
