"""What befalls one of four ranks, at every place of a run: all is over soon, with one verdict that names the rank.

    run_drill.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER TOOL

A part of the drills runs; with REFIT_DRILL_ALL=1 in the environment every place x action x executor. Prints one line per
drill: what was done, seconds, exit code, JSON's status, who was named.
"""

import collections
import concurrent.futures
import glob
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

RANKS = 4
LIMIT = 15.0  # seconds from the blow to the job's end
AT_ONCE = 3
TIMEOUT, ON_TOP = 2, 4  # seconds of refits, and of other phases on top
# Where, and how often the place is passed before: the second refit's.
BEFORE_MPI = ["process", "MPI_Init"]
PREPARE = ["setup", "prepare", "allocate", "probe", "plan", "load", "verify"]
REFIT = ["update", "barrier", "bulk", "misc", "finalize", "wait for all ranks"]
END = ["dump", "finish", "MPI_Finalize", "finalized"]
PLACES = [(place, 1) for place in BEFORE_MPI + PREPARE] + [(place, 2) for place in REFIT] + [("verify", 3)] + [
    (place, 1) for place in END]  # fmt: skip
EXECUTORS = ["p2p", "direct", "golden"]
Drill = collections.namedtuple("Drill", "place n action executor rank hosts", defaults=(1,))
# Between the launcher and refit: ranks 0 and 1 on one host, 2 and 3 on another, as far as they can know.
TWO_HOSTS = """
if [ $OMPI_COMM_WORLD_RANK -ge 2 ]; then export OMPI_COMM_WORLD_LOCAL_RANK=$((OMPI_COMM_WORLD_RANK - 2)) NAME=hostB
else export NAME=hostA; fi
export OMPI_COMM_WORLD_LOCAL_SIZE=2
exec unshare --uts bash -c 'hostname $NAME && exec "$@"' _ "$@"
"""


def legal(drill):
    # A signal that comes before refit's own code has its usual effect; what is over is not interrupted.
    return drill.action != "term" or drill.place not in ("process", "MPI_Finalize", "finalized")


def all_drills():
    for executor in EXECUTORS:
        for place, n in PLACES:
            for action in ("kill", "stop", "term", "delay"):
                yield Drill(place, n, action, executor, 3 if executor == "p2p" else 1)


def some_drills():
    """Every place once with a stop, the executors in turn; the other actions at a few places; rank 0 too."""
    for i, (place, n) in enumerate(PLACES):
        yield Drill(place, n, "stop", EXECUTORS[i % 3], 3 if i % 2 else 1)
    for place, n, action, executor, rank in [
        ("load", 1, "kill", "p2p", 3), ("bulk", 2, "kill", "golden", 2), ("MPI_Finalize", 1, "kill", "p2p", 1),
        ("MPI_Init", 1, "term", "p2p", 1), ("plan", 1, "term", "direct", 0), ("misc", 2, "term", "p2p", 3),
        ("dump", 1, "term", "golden", 2), ("process", 1, "delay", "p2p", 2), ("bulk", 2, "delay", "direct", 2),
        ("misc", 2, "delay", "p2p", 3), ("update", 2, "delay", "golden", 0), ("bulk", 2, "stop", "p2p", 0),
    ]:  # fmt: skip
        yield Drill(place, n, action, executor, rank)


def drills_of_two_hosts():
    if subprocess.run(["unshare", "--uts", "hostname", "hostA"], capture_output=True, check=False).returncode != 0:
        print("SKIPPED: two hosts: this user may not make one look like two", flush=True)
        return
    for place, n, action, rank in [("bulk", 2, "stop", 3), ("misc", 2, "delay", 2), ("plan", 1, "kill", 3),
                                   ("misc", 1, "term", 2), ("load", 1, "stop", 0), ("finalized", 1, "kill", 1)]:  # fmt: skip
        yield Drill(place, n, action, "p2p", rank, 2)


def shared_names():
    return set(glob.glob(f"/dev/shm/refit-{os.getuid()}-*"))


def attempt(suite, drill, name, seconds, on_top):
    delay = f":{4 * LIMIT}" if drill.action == "delay" else ""
    (tool,) = map(os.path.abspath, suite.rest)
    words = [f"REFIT_DRILL={drill.rank}:{drill.place}:{drill.n}:{drill.action}{delay}", f"LD_PRELOAD={tool}"]
    words += [f"{variable}={tool}" for variable in ("KOKKOS_PROFILE_LIBRARY", "KOKKOS_TOOLS_LIBS")]
    job = suite.start(
        RANKS, "run", "--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--gen", "TP2", "--bulk", "ffn",
        "--executor", drill.executor, "--steps", 2, "--warmup", 0, "--timeout", seconds, "--set",
        f"run.phase_seconds={on_top}", "--json", suite.path(f"{name}.json"), "--dump-gen", suite.path(f"{name}.dumps"),
        "--force", within=("env", *words), before=("bash", "-c", TWO_HOSTS, "_") if drill.hosts == 2 else (),
    )  # fmt: skip
    hung = False
    begin = time.monotonic()
    while job.process.poll() is None and time.monotonic() - begin < 8 * LIMIT and not hung:
        time.sleep(0.05)
        # mpirun of Open MPI 4.1 may crash or hang itself where a rank ends within MPI_Init or MPI_Finalize.
        hung = drill.place.startswith("MPI_") and time.monotonic() - begin > LIMIT and not job.ranks()
    end = time.time()
    if hung:
        print(f"{name}: mpirun itself does not end", flush=True)
        job.kill()
    ended = job.wait(1)
    begin = time.monotonic()
    while job.pids() and time.monotonic() - begin < LIMIT:
        time.sleep(0.1)
    return ended, end, job.pids()


def strike(suite, drill):
    """Where the machine is so busy that a limit passes before the blow, so that another rank is named or none, again with
    more time; likewise where the launcher, which has its own time for it, kills all ranks before any has spoken."""
    name = "-".join(map(str, drill)).replace(" ", "_")
    waits = drill.action in ("stop", "delay")
    for factor in (1, 3, 9) if waits else (30, 30, 30):
        ended, end, left = attempt(suite, drill, name, factor * TIMEOUT, factor * ON_TOP)
        said = re.search(r"^refit: .*(timeout: no end after|has died|interrupted by).*", ended.err, re.MULTILINE)
        if blow_of(drill, ended) and said and ("timeout: " not in said[0] or f" s: rank {drill.rank} " in said[0]):
            break
    return name, factor if waits else 1, ended, end, left


def blow_of(drill, ended):
    """What befell the rank, as the tool says it: (pid, time); None where nothing did."""
    return re.search(rf"^drill: rank {drill.rank} pid (\d+): .*, ([\d.]+)$", ended.err, re.MULTILINE)


def check(suite, drill, name, factor, ended, end, left):
    blow = blow_of(drill, ended)
    if not suite.check(blow, f"{name}: nothing befell rank {drill.rank}", ended):
        return
    codes = (3, 128 + signal.SIGKILL) if drill.action == "kill" else (3,)
    if drill.place.startswith("MPI_"):  # mpirun's own end, see above
        codes = (*codes, 128 + signal.SIGSEGV, -signal.SIGSEGV, -signal.SIGKILL)
    suite.check(ended.code in codes, f"{name}: exit code {ended.code}, not of {codes}", ended)
    seconds = end - float(blow[2])
    suite.check(seconds < LIMIT * factor or ended.code == -signal.SIGKILL, f"{name}: took {seconds:.1f} s", ended)
    suite.check(not left, f"{name}: processes {left} remain", ended)
    suite.check(not re.search(r"^(OK|FAILED)", ended.out, re.MULTILINE), f"{name}: a verdict on stdout", ended)
    host = r"\S+" if drill.hosts == 1 else "host" + "AABB"[drill.rank]
    who = rf"rank {drill.rank} \(host {host}, pid {blow[1]}\)"
    if drill.place == "process":
        who = rf"rank {drill.rank} \(host [^,]*\)"
    wanted = {
        "kill": rf"^refit: {who} has died",
        "stop": rf"^refit: .*{who} (is stopped|has not started)",
        "term": rf"^refit: rank {drill.rank}: interrupted by SIGTERM in phase ",
        "delay": rf"^refit: .*no end after [\d.]+ s: .*{who} (is|waits for others|has not started)",
    }[drill.action]
    if drill.place == "process" and drill.action == "kill":  # nobody knows more than that it is not there
        wanted = rf"^refit: .*interrupted by SIGTERM .*{who} has not started"
    # A rank that dies behind MPI_Finalize: at times mpirun sends the others SIGKILL half a millisecond after SIGTERM. What
    # can be asked for then is that nothing untrue is left.
    if (drill.place, drill.action) == ("finalized", "kill") and not os.path.exists(suite.path(f"{name}.json")):
        suite.check(ended.code == 128 + signal.SIGKILL, f"{name}: no result, but exit code {ended.code}", ended)
        return print(f"{name}: killed by the launcher before anybody could report it", flush=True)
    named = re.search(wanted, ended.err, re.MULTILINE)
    suite.check(named, f"{name}: not named: {wanted}", ended)
    verdicts = re.findall(r"^refit: .*(?:timeout: |interrupted by |has died).*", ended.err, re.MULTILINE)
    # Behind MPI_Finalize hosts hear nothing of each other: the other one's ranks know of the launcher's SIGTERM alone.
    if (drill.place, drill.action, drill.hosts) == ("finalized", "kill", 2) and len(verdicts) == 2:
        apart = [verdict for verdict in verdicts if "interrupted by SIGTERM in phase MPI_Finalize" in verdict]
        suite.check(len(apart) == 1, f"{name}: {verdicts}", ended)
        return print(f"{name}: the hosts' verdicts are {verdicts}", flush=True)
    suite.check(len(verdicts) == 1, f"{name}: {len(verdicts)} verdicts", ended)
    status = ""
    if drill.place not in BEFORE_MPI + ["setup"]:
        result = suite.result(f"{name}.json", ended)
        status = result.get("status")
        suite.check(status == ("interrupted" if drill.action == "term" else "error"), f"{name}: status {status}", ended)
        error = result.get("error", {})
        suite.check(error.get("rank") == drill.rank, f"{name}: JSON's error: {error}", ended)
        kind = {"kill": "runtime", "term": "interrupted"}.get(drill.action, "timeout")
        suite.check(error.get("kind") == kind and result.get("exit_code") == 3, f"{name}: JSON's error: {error}", ended)
    what = f"{drill.executor:7}{' 2 hosts' if drill.hosts == 2 else ''} {drill.place:18} {drill.action:6} rank {drill.rank}"
    print(f"{what}: {seconds:4.1f} s, exit code {ended.code}, {status or '-':11} {verdicts[0][7:] if verdicts else ''}",
          flush=True)  # fmt: skip


def drills(suite):
    complete = os.environ.get("REFIT_DRILL_ALL", "") not in ("", "0")
    chosen = [drill for drill in (all_drills() if complete else some_drills()) if legal(drill)]
    chosen += drills_of_two_hosts()
    before = shared_names()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for drill, outcome in zip(chosen, pool.map(lambda one: strike(suite, one), chosen)):
            check(suite, drill, *outcome)
    # What jobs left whose processes had not all come when they ended, the next one takes away. Others come and go.
    suite.run(2, "run", "--model", "qwen3-0.6b-small", "--layers", 1, "--train", "TP1", "--gen", "TP1", "--steps", 1)
    left, begin = shared_names() - before, time.monotonic()
    while left and time.monotonic() - begin < LIMIT:
        time.sleep(0.1)
        left &= shared_names()
    suite.check(not left, f"{left} remain in shared memory")


def named_data(suite):
    """Wrong data that has been named is the verdict, also where a rank stops while its elements are counted."""
    (tool,) = map(os.path.abspath, suite.rest)

    def stop(rank):
        words = [f"REFIT_DRILL={rank}:count:1:stop", f"LD_PRELOAD={tool}"]
        words += [f"{variable}={tool}" for variable in ("KOKKOS_PROFILE_LIBRARY", "KOKKOS_TOOLS_LIBS")]
        name = f"named-{rank}.json"
        return name, suite.run(
            3, "run", "--model", "smollm2-135m-small", "--layers", 1, "--train", "TP1", "--gen", "DP2", "--steps", 2,
            "--inject", "stale-refit", "--timeout", 10, "--set", "run.phase_seconds=1", "--set", "run.count_seconds=1",
            "--json", suite.path(name), "--force", within=("env", *words),
        )  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(stop, (2, 0)))
    for name, ended in outcomes:
        suite.check_code(ended, 1, name)
        found = suite.result(name, ended)
        suite.check(found.get("status") == "failed" and found["error"]["kind"] == "data", f"{name}: {found.get('error')}", ended)
        wrong = found.get("verification", {})
        suite.check(wrong.get("tensors_wrong") == wrong.get("tensors_not_counted") == 11, f"{name}: {wrong}", ended)


# Rank, place, how often it is passed before, action: world ranks 0 and 1 are train ranks, 2 is engine 0, and 3 and 4 are
# engine 1, which is gone in refit 2.
OF_ENGINES = [(4, "load", 2, "stop"), (1, "plan", 3, "stop"), (2, "wait for another engine", 2, "stop"), (4, "bulk", 3, "stop"),
              (3, "update", 2, "kill"), (2, "wait for another engine", 2, "kill")]  # fmt: skip


def engines(suite):
    """The same while engines come and go (run.drill): a process that dies or hangs ends the job and is named, also one of a
    dead engine, also one that waits while another engine is made."""
    (tool,) = map(os.path.abspath, suite.rest)

    def strike_one(blow):
        rank, place, n, action = blow
        words = [f"REFIT_DRILL={rank}:{place}:{n}:{action}", f"LD_PRELOAD={tool}"]
        words += [f"{variable}={tool}" for variable in ("KOKKOS_PROFILE_LIBRARY", "KOKKOS_TOOLS_LIBS")]
        name = f"engines-{rank}-{place}-{action}".replace(" ", "_") + ".json"
        for factor in (1, 3, 9) if action == "stop" else (30,):
            ended = suite.run(
                5, "run", "--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--gen", "TP1+TP2", "--executor", "p2p",
                "--steps", 4, "--warmup", 0, "--drill", "kill engine 1 after refit 1; rejoin before refit 3", "--json", suite.path(name),
                "--timeout", factor * TIMEOUT, "--set", f"run.phase_seconds={factor * ON_TOP}", "--force", within=("env", *words),
            )  # fmt: skip
            if blow_of(Drill(place, n, action, "p2p", rank), ended):
                break
        return name, ended

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for (rank, place, n, action), (name, ended) in zip(OF_ENGINES, pool.map(strike_one, OF_ENGINES)):
            codes = (3, 128 + signal.SIGKILL) if action == "kill" else (3,)
            suite.check(ended.code in codes, f"{name}: exit code {ended.code}", ended)
            end = "has died in phase " if action == "kill" else "is stopped in phase "
            verdicts = re.findall(r"^refit: .*(?:timeout: |has died).*", ended.err, re.MULTILINE)
            named = len(verdicts) == 1 and re.search(rf"rank {rank} \(host [^,]*, pid \d+\) {end}{place}", verdicts[0])
            suite.check(named, f"{name}: {verdicts}", ended)
            error = suite.result(name, ended).get("error", {})
            suite.check(error.get("rank") == rank, f"{name}: JSON's error: {error}", ended)


Suite(__doc__).main(named_data, engines, drills)
