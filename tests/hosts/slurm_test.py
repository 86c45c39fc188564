"""Jobs under a real Slurm: how refusals and failures end (exit code, said once, nothing left), and what a user does from outside.

(Arguments: host_suite.py)
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import hosts
from host_suite import HostSuite
from job import LIMIT_SECONDS

MODEL = ("--model", "qwen3-0.6b-small", "--layers", "2", "--executor", "p2p")
LAYOUTS = ("--train", "TP2", "--gen", "TP2")
SMALL = (*MODEL, *LAYOUTS)
END_SECONDS = 15  # after a job's end: what is still there then is left
MISMATCH = "launcher and MPI library do not match"


TWO_HOSTS = ("-N2", "-n4", "--ntasks-per-node=2", "-w", "h1,h2")


def srun(cluster, mpi="pmix", job=True):
    """The words before a program that start four ranks, two on h1 and two on h2: a step of the test's allocation, or a job."""
    words = [*cluster.on("h1"), "srun", *TWO_HOSTS, "--kill-on-bad-exit=1"]
    words += [f"--jobid={cluster.allocation}", "--overlap"] if job else []
    return [*words, *([f"--mpi={mpi}"] if mpi else [])]


def allocate(cluster):
    """An allocation for the steps that follow each other: jobs would wait until Slurm has tidied up after the last one."""
    command = [*cluster.on("h1"), "salloc", "--no-shell", *TWO_HOSTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS)
    cluster.allocation = re.search(r"Granted job allocation (\d+)", done.stderr)[1]


def said(ended, word):
    """refit's own lines with a word. At the end of a failing job Slurm may print what it has cut off in two lines."""
    return [line for line in ended.err.splitlines() if line.startswith("refit: ") and word in line]


def check_nothing_left(suite, cluster, what):
    end = time.monotonic() + END_SECONDS
    left = True
    while left and time.monotonic() < end:
        left = [(name, pid) for name in ("h1", "h2") for pid in cluster.processes(name, "refit")]
        time.sleep(0.05)
    suite.check(not left, f"{what}: left {left}")
    for name in ("h1", "h2"):
        files = subprocess.run([*cluster.on(name), "ls", "/dev/shm"], capture_output=True, text=True, check=True).stdout.split()
        suite.check(not files, f"{what}: {name} has {files} in its shared memory")


def check_end(suite, cluster, what, ended, code, words, status="error"):
    """The exit code, the verdict said once, nothing left, and the result; `status` None: there is none."""
    suite.check_code(ended, code, what)
    lines = said(ended, words)
    suite.check(len(lines) == 1, f"{what}: '{words}' is said {len(lines)} times", ended)
    check_nothing_left(suite, cluster, what)
    if status is None:
        suite.check(not os.path.exists("result.json"), f"{what}: there is a result", ended)
    else:
        found = suite.result("result.json", ended)
        suite.check((found.get("status"), found.get("exit_code")) == (status, code), f"{what}: {found.get('status')}", ended)
        suite.check(words in found.get("error", {}).get("message", ""), f"{what}: {found.get('error')}", ended)
    print(f"  {what}: {ended.code} after {ended.seconds:.1f} s", flush=True)


def fresh():
    if os.path.exists("result.json"):
        os.remove("result.json")


def refusal(suite, cluster, what, code, words, *arguments, launcher=None, status="error"):
    fresh()
    ended = suite.start_with(launcher or srun(cluster), "run", *arguments, "--json", "result.json").wait()
    check_end(suite, cluster, what, ended, code, words, status)


def corrupt_checkpoint(suite):
    suite.run(0, "synth", "qwen3-0.6b-small", "corrupt", "--layers", 1, "--force")
    os.truncate("corrupt/model.safetensors", 100000)
    return "corrupt"


def refusals(suite, cluster):
    """What all ranks refuse alike, before MPI starts and after."""
    for what, code, words, arguments, status in (
        ("unknown model", 2, "absent: no such file", ("--model", "absent", *LAYOUTS), None),
        ("unknown option", 2, "--frobnicate", (*SMALL, "--frobnicate"), None),
        ("wrong key", 2, "did you mean run.seed?", (*SMALL, "--set", "run.sed=1"), None),
        ("rank count", 2, "start it with: srun --mpi=pmix -n 6", (*MODEL, "--train", "TP2", "--gen", "TP4"), "error"),
        ("no checkpoint", 2, "absent: no such file", ("--checkpoint", "absent", *LAYOUTS), "error"),
        ("corrupt checkpoint", 2, "corrupt/model.safetensors", ("--checkpoint", corrupt_checkpoint(suite), *LAYOUTS), "error"),
        ("illegal layout", 2, "this layout is impossible:", (*MODEL, "--train", "TP3", "--gen", "TP1"), "error"),
        ("no CUDA", 77, "this build has no CUDA", (*SMALL, "--device", "cuda"), "waived"),
    ):  # fmt: skip
        if suite.has_cuda and what == "no CUDA":
            continue
        refusal(suite, cluster, what, code, words, *arguments, status=status)
    refusal(suite, cluster, "unwritable output", 2, "absent/x.csv", *SMALL, "--csv", "absent/x.csv")


def one_host(suite, cluster):
    """What only some hosts have."""
    with open(os.path.join(suite.args.inputs, "cases", "demo-synthetic.toml"), encoding="utf-8") as file:
        text = file.read().replace("../models/", suite.args.inputs + "/models/")
    for name, other in (("h1", "h2"), ("h2", "h1")):
        subprocess.run([*cluster.on(name), "sh", "-c", f"cat > /tmp/of-{name}.toml"], input=text, text=True, check=True)
        ranks, status = ("2, 3", "error") if other == "h2" else ("0, 1", None)  # rank 0 knows its case, or does not
        refusal(suite, cluster, f"a case of {name}", 2, f"host {other} (ranks {ranks}): /tmp/of-{name}.toml: no such file",
                f"/tmp/of-{name}.toml", *LAYOUTS, status=status)  # fmt: skip
    dumps = ("--dump-train", "/tmp/dumps", "--dump-gen", "/tmp/dumps", "--steps", 1)
    fresh()
    ended = suite.start_with(srun(cluster), "run", *SMALL, *dumps, "--json", "result.json").wait()
    suite.check_code(ended, 0, "dumps of each host")
    for name, side in (("h1", "train"), ("h2", "gen")):
        found = subprocess.run([*cluster.on(name), "ls", "/tmp/dumps"], capture_output=True, text=True, check=True).stdout.split()
        suite.check(found == [f"{side}-rank-0000{i}.safetensors" for i in (0, 1)], f"dumps of {name}: {found}", ended)
    environment = suite.result("result.json", ended)["environment"]
    hosts_found = [host["name"] for host in environment["hosts"]]
    suite.check((environment["launcher"], hosts_found) == ("srun", ["h1", "h2"]) and environment["job"].isdecimal(),
                f"environment: {environment}")  # fmt: skip
    subprocess.run([*cluster.on("h1"), "rm", "-r", "/tmp/dumps"], check=True)
    refusal(suite, cluster, "dumps on h2", 2, "host h2: /tmp/dumps: already holds dumps", *SMALL, *dumps)


def launchers(suite, cluster):
    """Launchers that do not know refit's MPI library."""
    alone = srun(cluster, mpi="")
    refusal(suite, cluster, "no interface", 2, f"{MISMATCH}: srun has started 4 tasks", *SMALL, launcher=alone, status=None)
    if "Open MPI" not in suite.version:
        return print("SKIPPED: another MPI's launcher: refit is not built with Open MPI", flush=True)
    # What MPICH's launcher gives to its processes, and Open MPI does not look at.
    text = """#!/bin/bash
for rank in 0 1 2 3; do PMI_RANK=$rank PMI_SIZE=4 "$@" & pids+=($!); done
code=0; for pid in "${pids[@]}"; do wait $pid || code=$?; done; exit $code
"""
    launcher = [*cluster.on("h1"), hosts.write(suite.path("launcher"), text, 0o755)]
    words = f"{MISMATCH}: mpiexec has started 4"
    return refusal(suite, cluster, "another MPI's launcher", 2, words, *SMALL, launcher=launcher, status=None)


def paused_refit(suite, cluster, *arguments, launcher=None):
    """A job in its second update."""
    fresh()
    paused = suite.start_paused(launcher or srun(cluster), ("update",), "run", *SMALL, *arguments, "--steps", 100000, "--json", "result.json")
    paused.reaches()
    paused.goes_on()
    paused.reaches()
    return paused


def killed(suite, cluster):
    paused = paused_refit(suite, cluster)
    victim = cluster.processes("h2", "refit")[0]
    os.kill(victim, signal.SIGKILL)
    ended = paused.job.wait(LIMIT_SECONDS)
    check_end(suite, cluster, "a rank is killed", ended, 3, "has died in phase ")
    suite.check(said(ended, "(host h2, pid "), "the dead rank's host is not named", ended)


def stopped(suite, cluster):
    paused = paused_refit(suite, cluster, "--timeout", 5)
    victim = cluster.processes("h2", "refit")[0]
    os.kill(victim, signal.SIGSTOP)
    shutil.rmtree(paused.folder)  # rank 0 goes on, for good
    ended = paused.job.wait(LIMIT_SECONDS)
    check_end(suite, cluster, "a rank is stopped", ended, 3, "timeout: no end after ")
    suite.check(re.search(r"timeout: .*\(host h2, pid \d+\) is stopped", ended.err), "the stopped rank is not named", ended)


def timeout(suite, cluster):
    fresh()
    arguments = (*SMALL, "--inject", "skip-send", "--timeout", 2, "--steps", 2, "--json", "result.json")
    ended = suite.start_with(srun(cluster), "run", *arguments).wait()
    check_end(suite, cluster, "timeout", ended, 3, "timeout: no end after ")


def full(suite, cluster):
    subprocess.run([*cluster.on("h1"), "sh", "-c", "mkdir /tmp/full && mount -t tmpfs -o size=100k tmpfs /tmp/full"], check=True)
    fresh()
    ended = suite.start_with(srun(cluster), "run", *SMALL, "--steps", 1, "--dump-train", "/tmp/full", "--json", "result.json").wait()
    check_end(suite, cluster, "a full disk", ended, 3, "No space left on device")


def cancelled(suite, cluster):
    paused = paused_refit(suite, cluster, launcher=srun(cluster, job=False))
    on_first = cluster.on("h1")
    jobs = hosts.call([*on_first, "squeue", "-h", "-w", "h1", "-o", "%i"]).split()
    subprocess.run([*on_first, "scancel", *(job for job in jobs if job != cluster.allocation)], check=True)
    ended = paused.job.wait(LIMIT_SECONDS)
    check_end(suite, cluster, "scancel", ended, 3, "interrupted by SIGTERM", status="interrupted")
    found = suite.result("result.json", ended)
    suite.check(len(found["weight_sync"]["samples"]) + found["settings"]["warmup"] >= 1, f"scancel: {found.get('weight_sync')}", ended)


class TimeLimit:
    """A job of scripts/slurm/sbatch.py that runs into its time limit, on h3."""

    CLUSTER = 'nodes = 1\ncpus_per_node = 4\ntime = "00:01:00"\n'

    def __init__(self, suite, cluster):
        self.suite = suite
        self.folder = suite.path("limit")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        case = os.path.join(suite.args.inputs, "cases", "demo-synthetic.toml")
        hosts.write(f"{self.folder}/cluster.toml", self.CLUSTER)
        sbatch = [sys.executable, os.path.join(hosts.ROOT, "scripts", "slurm", "sbatch.py"), case, f"{self.folder}/cluster.toml",
                  "--refit", suite.args.refit, "--", "--train", "TP1", "--gen", "TP1", "--steps", "1000000"]  # fmt: skip
        script = hosts.write(f"{self.folder}/job.sh", hosts.call(sbatch))
        # Rank 0 waits in its second update, lest the job takes the other tests' time.
        os.makedirs(f"{self.folder}/pauses")
        settings = [f"KOKKOS_PROFILE_LIBRARY={suite.tool}", f"KOKKOS_TOOLS_LIBS={suite.tool}", "REFIT_PAUSE=verify",
                    f"REFIT_PAUSE_FOLDER={self.folder}/pauses", f"REFIT_INPUTS={suite.args.inputs}"]  # fmt: skip
        self.job = subprocess.Popen([*cluster.on("h3"), "env", *settings, "sbatch", "--wait", "-w", "h3", "--chdir", self.folder,
                                     "--job-name=limit", "--output=limit.out", script], stdout=subprocess.DEVNULL)  # fmt: skip

    def check(self):
        code = self.job.wait(LIMIT_SECONDS)
        with open(f"{self.folder}/limit.out", encoding="utf-8") as file:
            log = file.read()
        suite = self.suite
        suite.check(code == 3, f"time limit: exit code {code}\n{log}")
        results = [name for name in os.listdir(self.folder) if name.endswith(".json")]
        if suite.check(len(results) == 1, f"time limit: results {results}\n{log}"):
            found = suite.result(os.path.join(self.folder, results[0]))
            good = found["status"] == "interrupted" and "SIGTERM" in found["error"]["message"]
            suite.check(good, f"time limit: {found.get('error')}")
        suite.check("arning" not in log, f"srun warns:\n{log}")


def slurm(suite):
    os.environ["OMPI_MCA_mpi_yield_when_idle"] = "1"  # more ranks than cores
    with suite.hosts(3) as cluster, hosts.Slurm(cluster):
        allocate(cluster)
        limit = TimeLimit(suite, cluster) if suite.part in "time limit" else None
        for part in (refusals, one_host, launchers, killed, stopped, timeout, full, cancelled):
            if suite.part in part.__name__:
                part(suite, cluster)
        if limit:
            limit.check()


if __name__ == "__main__":
    suite = HostSuite(__doc__)
    suite.part = suite.rest[suite.rest.index("--part") + 1] if "--part" in suite.rest else ""
    suite.version = suite.run(0, "--version").out
    suite.has_cuda = "\ncuda " in suite.version
    suite.main(slurm)
