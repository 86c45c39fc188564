"""A rank that dies, stops or is interrupted in the middle of a run: all is over within 15 s and nothing stays behind.

    run_killed.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

LIMIT = 15.0  # seconds
STEPS = 1_000_000
VICTIM = 2  # the first gen rank


def shared_files(pids):
    """The files in shared memory and under the launcher's folders that these processes have mapped."""
    found = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
                found |= set(re.findall(r"(/dev/shm/\S+|/tmp/\S*ompi\S+)$", file.read(), re.MULTILINE))
        except OSError:
            pass
    return found


def rank_pid(out, rank):
    """The process id of a rank, from the header."""
    found = re.search(rf"^# +{rank}  (?:train|gen) +(\d+) ", out, re.MULTILINE)
    return int(found[1]) if found else None


def started(suite, executor, folder, timeout):
    """A running job that has come to its steps, and what it has printed so far."""
    job = suite.start(
        4, "run", "--checkpoint", suite.checkpoint("qwen3"), "--train", "TP2", "--gen", "TP2", "--executor", executor,
        "--steps", STEPS, "--timeout", timeout, "--set", "run.phase_seconds=4", "--json", os.path.join(folder, "result.json"),
        "--csv", os.path.join(folder, "result.csv"), "--dump-gen", os.path.join(folder, "dumps"),
    )  # fmt: skip
    printed = ""
    for line in job.process.stdout:
        printed += line
        if re.match(r" +3 +[\d.]+ ", line):  # the third refit: in the middle of it
            break
    return job, printed


def strike(suite, executor, blow, timeout, rank=VICTIM):
    """Sends `blow` to a rank in the middle of a run; checks the end, and returns it."""
    what = f"{executor}, signal {blow.name}"
    folder = suite.path("struck")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    job, printed = started(suite, executor, folder, timeout)
    victim = rank_pid(printed, rank)
    if not suite.check(victim in job.ranks(), f"{what}: the header's pid {victim} is not of {job.ranks()}"):
        job.kill()
        return job.wait(), folder
    files = shared_files(job.ranks())
    suite.check(len(files) > 0, f"{what}: nothing is shared, so nothing can be left")
    begin = time.monotonic()
    os.kill(victim, blow)
    ended = job.wait(2 * LIMIT)
    seconds = time.monotonic() - begin
    suite.check(ended.code not in (None, 0), f"{what}: exit code {ended.code}", ended)
    suite.check(seconds < LIMIT, f"{what}: ended after {seconds:.1f} s", ended)
    while job.pids() and time.monotonic() - begin < LIMIT:
        time.sleep(0.1)
    suite.check(not job.pids(), f"{what}: processes {job.pids()} remain", ended)
    job.kill()
    left = sorted(filter(os.path.exists, files))
    suite.check(not left, f"{what}: {left} remain", ended)
    return ended, folder


def killed(suite):
    """The others say so before the launcher ends them."""
    for executor in ("direct", "p2p", "golden"):
        ended, folder = strike(suite, executor, signal.SIGKILL, 60)
        suite.check(re.search(rf"^refit: rank {VICTIM} \(host \S+, pid \d+\) has died in phase ", ended.err, re.MULTILINE),
                    f"{executor}: nobody says who died", ended)  # fmt: skip
        result = suite.result(os.path.join(folder, "result.json"), ended)
        suite.check(result.get("status") == "error", f"{executor}: status {result.get('status')}", ended)
        suite.check(len(result.get("weight_sync", {}).get("samples", [])) >= 2, f"{executor}: no samples", ended)


def killed_with_the_results(suite):
    """Rank 0's refits are lost with it; that it has died is in the result."""
    ended, folder = strike(suite, "direct", signal.SIGKILL, 60, rank=0)
    result = suite.result(os.path.join(folder, "result.json"), ended)
    suite.check(result.get("status") == "error", f"rank 0: status {result.get('status')}", ended)
    suite.check("rank 0 (host" in result.get("error", {}).get("message", ""), f"rank 0: {result.get('error')}", ended)


def stopped(suite):
    """The others wait for a rank that does not move: their timeout ends all, with a result that says so."""
    for executor in ("direct", "p2p"):
        ended, folder = strike(suite, executor, signal.SIGSTOP, 3)
        # Other phases get a little more time than a refit.
        named = re.search(rf"timeout: no end after [37](\.\d+)? s: rank {VICTIM} \(host \S+, pid \d+\) is stopped in ", ended.err)
        suite.check(named is not None, f"{executor}: nobody names the timeout", ended)
        result = suite.result(os.path.join(folder, "result.json"), ended)
        suite.check(result["status"] == "error", f"{executor}: status {result['status']}", ended)
        suite.check(result["error"]["kind"] == "timeout", f"{executor}: {result['error']}", ended)


def interrupted(suite):
    """A signal to one rank, or to the launcher, which passes it on and has an exit code of its own."""
    for whom in ("rank", "launcher"):
        folder = suite.path("interrupted")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        job, printed = started(suite, "direct", folder, 60)
        begin = time.monotonic()
        os.kill(rank_pid(printed, VICTIM) if whom == "rank" else job.process.pid, signal.SIGTERM)
        ended = job.wait(2 * LIMIT)
        seconds = time.monotonic() - begin
        suite.check(ended.code == 3 if whom == "rank" else ended.code not in (None, 0), f"{whom}: exit code {ended.code}", ended)
        suite.check(seconds < LIMIT, f"{whom}: ended after {seconds:.1f} s", ended)
        said = re.findall(r"^refit: rank \d: interrupted by SIGTERM in phase ", ended.err, re.MULTILINE)
        suite.check(len(said) == 1, f"{whom}: said by {said}", ended)
        suite.check(not re.search("^(OK|FAILED)", printed + ended.out, re.MULTILINE), f"{whom}: a verdict on stdout", ended)
        result = suite.result(os.path.join(folder, "result.json"), ended)
        suite.check((result.get("status"), result.get("exit_code")) == ("interrupted", 3), f"{whom}: {result.get('status')}", ended)
        suite.check(result.get("error", {}).get("kind") == "interrupted", f"{whom}: {result.get('error')}", ended)
        suite.check(len(result.get("weight_sync", {}).get("samples", [])) >= 2, f"{whom}: no samples", ended)


Suite(__doc__).main(killed, killed_with_the_results, stopped, interrupted)
