"""One job in a session of its own: started, waited for with a limit, and ended with all that it started.

mpirun gives each rank a process group of its own, so a group alone does not hold a job; its session does, and the mark that
all its processes have in their environment: also those that began a session of their own.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass

GRACE_SECONDS = 10.0  # between asking a job to end and killing it
MARK = "REFIT_MATRIX_JOB"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Ended:
    code: int  # as in subprocess: negative is a signal
    seconds: float
    timed_out: bool


def run(command, log, seconds, environment=None):
    """Runs a command with its output in the file `log`. However this ends, nothing of the job is left.

    OSError: the command cannot be started.
    """
    begin = time.monotonic()
    mark = uuid.uuid4().hex
    environment = {**(os.environ if environment is None else environment), MARK: mark}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True, preexec_fn=_end_with_parent
        )  # fmt: skip
    timed_out = False
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        end(process, mark)
    return Ended(process.returncode, time.monotonic() - begin, timed_out)


def _end_with_parent():
    """In the new process: the launcher is asked to end when the process that started it is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process, mark):
    """Ends what is left of the job that the process began: its group is asked, then everything is killed.

    A launcher that is asked ends its ranks, also those on other hosts, before itself.
    """
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=GRACE_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    while left := _living(process.pid, mark):  # a process may start another while it is looked for
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
    process.wait()


def _living(session, mark):
    """The living processes of a session, and those that carry the job's mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, _, _, its_session = file.read().rpartition(")")[2].split()[:4]
            if state in "ZX":
                continue
            if int(its_session) == session:
                found.append(int(name))
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found
