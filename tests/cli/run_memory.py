"""A model that does not fit: refused with numbers before anything is allocated or loaded.

    run_memory.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import re
import shutil
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

SHARED = "/dev/shm"


class LeastFree(threading.Thread):
    """The least main and shared memory that was free while a job ran, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.now()
        self.least = self.before
        self.stop = threading.Event()

    @staticmethod
    def now():
        with open("/proc/meminfo", encoding="utf-8") as file:
            available = next(line for line in file if line.startswith("MemAvailable:"))
        shared = os.statvfs(SHARED)
        return int(available.split()[1]) * 1024, shared.f_bavail * shared.f_bsize

    def run(self):
        while not self.stop.wait(0.05):
            self.least = tuple(map(min, self.least, self.now()))

    def taken(self):
        self.stop.set()
        self.join()
        return max(before - least for before, least in zip(self.before, self.least))


def too_large(suite, model, executor, name):
    watch = LeastFree()
    watch.start()
    ended = suite.run(
        4, "run", "--model", model, "--train", "TP2", "--gen", "TP2", "--executor", executor, "--steps", 1,
        "--json", f"{name}.json", "--dump-gen", f"{name}-dumps", "--force",
    )  # fmt: skip
    taken = watch.taken()
    suite.check_code(ended, 3, name)
    numbers = re.findall(r"memory: the ranks of this host need ([\d.]+) GiB and ([\d.]+) GiB are there", ended.err)
    suite.check(len(numbers) == 1, f"{name}: does not say once what is needed and there", ended)
    if numbers:
        needed, there = map(float, numbers[0])
        suite.check(needed > there > 0, f"{name}: {needed} GiB needed, {there} GiB there", ended)
    suite.check("loading" not in ended.err and "SIGBUS" not in ended.err, f"{name}: went on", ended)
    suite.check(taken < 4 << 30, f"{name}: took {taken / 2**30:.2f} GiB", ended)
    result = suite.result(f"{name}.json", ended)
    suite.check((result["status"], result["exit_code"]) == ("error", 3), f"{name}: {result['status']}", ended)
    suite.check(result["error"]["phase"] == "allocate", f"{name}: {result['error']}", ended)
    suite.check(not os.listdir(suite.path(f"{name}-dumps")), f"{name}: dumps were written", ended)


def largest_model(suite):
    too_large(suite, "qwen3-235b-a22b", "p2p", "qwen3-p2p")
    too_large(suite, "llama-3.1-70b", "direct", "llama-direct")


def expected(suite):
    """As a case of its own: the error is what was expected."""
    for message, code in (("main memory", 0), ("something else", 3)):
        ended = suite.run(
            4, "run", "--model", "llama-3.1-70b", "--train", "TP2", "--gen", "TP2", "--set", "expect.outcome=error",
            "--set", f"expect.message={message}",
        )  # fmt: skip
        suite.check_code(ended, code, f"expect.message = {message}")


def shared_memory(suite):
    """Fits main memory, but not /dev/shm: direct says so, p2p needs none. In a mount namespace, where one may be made."""
    small = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=40m none {SHARED} && exec "$@"', "sh")
    if shutil.which(small[0]) is None or subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        print("shared_memory: skipped, no mount namespace can be made here")
        return
    job = ("run", "--model", "llama-3.1-8b-small", "--train", "TP2", "--gen", "TP2xDP2", "--steps", 1, "--force")
    ended = suite.run(6, *job, "--executor", "direct", "--json", "shared.json", within=small)
    suite.check_code(ended, 3, "shared memory")
    words = re.search(rf"shared memory: .*{SHARED}.*", ended.err)
    suite.check(words is not None and len(re.findall(r"[\d.]+ [GM]iB", words[0])) == 2, "no numbers", ended)
    suite.check("loading" not in ended.err and "SIGBUS" not in ended.err, "went on", ended)
    suite.check(suite.result("shared.json", ended)["exit_code"] == 3, "JSON", ended)
    ended = suite.run(6, *job, "--executor", "p2p", "--json", "main.json", within=small)
    suite.check_code(ended, 0, "p2p beside a small shared memory")


Suite(__doc__).main(largest_model, expected, shared_memory)
