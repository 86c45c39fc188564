"""What the tests of `refit run` share: starting a job, reading its result, finding what is left of it.

Their runs spend no time on rates of links and memory, which no test judges here (tests/hosts does).

Every job carries a word of its own in its environment, so that its processes are found again, and only they.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass

from launcher import mpirun

MARK = "REFIT_TEST_JOB"
LIMIT_SECONDS = 600  # of one job: guards against hangs, on the busiest machine


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    command: str
    code: int
    out: str
    err: str
    seconds: float


class Started:
    """A job in its own process group."""

    def __init__(self, command, executable, inputs, folder):
        self.mark = uuid.uuid4().hex
        self.command = " ".join(command)
        self.executable = os.path.basename(executable)
        self.begin = time.monotonic()
        environment = {**os.environ, MARK: self.mark, "REFIT_INPUTS": inputs}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True
        )  # fmt: skip

    def pids(self):
        """The job's living processes: those that carry its mark (a zombie has no environment any more)."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                pass
        return found

    def ranks(self):
        """The processes that are refit itself, not its launcher."""
        return [pid for pid in self.pids() if executable_name(pid) == self.executable]

    def kill(self):
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass

    def wait(self, seconds=LIMIT_SECONDS):
        """How it ended; a job that does not end is killed, with exit code None."""
        try:
            out, err = self.process.communicate(timeout=seconds)
            code = self.process.returncode
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            code = None
        return Ended(self.command, code, out, err, time.monotonic() - self.begin)


def executable_name(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.path.basename(file.read().split(b"\0")[0].decode(errors="replace"))
    except OSError:
        return ""


class Suite:
    """One test program: its arguments, its work folder, and the checks that failed."""

    probing = ("--set", "run.probe_seconds=0")  # what runs are told of it

    def __init__(self, description):
        parser = argparse.ArgumentParser(description=description)
        for name in ("--refit", "--engines", "--work", "--inputs"):
            parser.add_argument(name, required=True)
        parser.add_argument("--only", default="", help="a part of the names of the checks to run")
        self.args, self.rest = parser.parse_known_args()
        for name in ("refit", "engines", "inputs"):
            setattr(self.args, name, os.path.abspath(getattr(self.args, name)))
        self.work = os.path.abspath(self.args.work)
        self.failures = 0
        os.makedirs(self.work, exist_ok=True)

    def path(self, *names):
        return os.path.join(self.work, *names)

    def checkpoint(self, family):
        from oracle_test import unpack

        return os.path.join(unpack(self.args.engines, os.path.join(os.path.dirname(self.work), "oracle")), "ckpt", family)

    def model(self, name):
        return os.path.join(self.args.inputs, "models", name, "config.json")

    def start(self, ranks, *arguments, within=(), before=()):
        """A job of `ranks` ranks; 0: one process without the launcher. `within`: a command that starts the launcher;
        `before`: one that starts each process."""
        prefix = mpirun(ranks) if ranks > 0 else []
        return self.start_with([*within, *prefix, *before], *arguments)

    def start_with(self, launcher, *arguments):
        """A job that `launcher` starts: the words before the executable."""
        probing = self.probing if arguments[:1] == ("run",) and ":" not in arguments else ()
        command = [*launcher, self.args.refit, *map(str, arguments), *probing]
        return Started(command, self.args.refit, self.args.inputs, self.work)

    def run(self, ranks, *arguments, seconds=LIMIT_SECONDS, within=()):
        return self.start(ranks, *arguments, within=within).wait(seconds)

    def check(self, holds, what, ended=None):
        """Counts and prints what does not hold, with the job's command and last words."""
        if holds:
            return True
        self.failures += 1
        print(f"FAILED: {what}")
        if ended is not None:
            print(f"  {ended.command}\n  exit code {ended.code} after {ended.seconds:.1f} s")
            for text in (ended.out[-1500:], ended.err[-1500:]):
                print("  | " + "\n  | ".join(text.splitlines()))
        sys.stdout.flush()
        return False

    def check_code(self, ended, code, what):
        return self.check(ended.code == code, f"{what}: exit code {ended.code}, not {code}", ended)

    def result(self, name, ended=None):
        """The JSON document of that name in the work folder; {} and a failed check if there is none."""
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            self.check(False, f"{name}: {error}", ended)
            return {}

    def main(self, *parts):
        """Runs the functions whose name contains --only, and ends the program."""
        for part in parts:
            if self.args.only not in part.__name__:
                continue
            begin, before = time.monotonic(), self.failures
            try:
                part(self)
            except Exception as error:  # the next part is worth running all the same
                self.check(False, f"{part.__name__}: {type(error).__name__}: {error}")
            verdict = "ok" if self.failures == before else "FAILED"
            print(f"{part.__name__}: {verdict} ({time.monotonic() - begin:.1f} s)", flush=True)
        sys.exit(1 if self.failures else 0)
