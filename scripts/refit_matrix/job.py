"""One job in a session of its own: started, waited for with a limit, and ended with all that it started.

mpirun gives each rank a process group of its own, so a group alone does not hold a job; its session does.
"""

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass

GRACE_SECONDS = 10.0  # between asking a job to end and killing it
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
        end(process)
    return Ended(process.returncode, time.monotonic() - begin, timed_out)


def _end_with_parent():
    """In the new process: the launcher is asked to end when the process that started it is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process):
    """Ends what is left of the session that the process began: its group is asked, then everything is killed.

    A launcher that is asked ends its ranks, also those on other hosts, before itself.
    """
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=GRACE_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    for pid in _session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def _session(session):
    """The living processes of a session."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, _, _, its_session = file.read().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state not in "ZX":
            found.append(int(name))
    return found
