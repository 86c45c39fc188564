"""What a profiler sees of a run: the phases of every rank, in their order, through a tool of Kokkos'.

    run_profile.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER TOOL
"""

import collections
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

PREPARE = ["setup", "prepare", "allocate", "probe", "plan", "connect", "load", "verify"]
REFIT = ["update", "barrier", "bulk", "finalize", "wait for all ranks", "verify"]
END = ["probe", "finish"]  # rates once more, on hosts


def phases(suite):
    """One after the other: each begins when the one before has ended."""
    (tool,) = suite.rest
    job = ("--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP1", "--gen", "TP1", "--steps", 2, "--warmup", 0)
    tools = [f"{name}={os.path.abspath(tool)}" for name in ("KOKKOS_PROFILE_LIBRARY", "KOKKOS_TOOLS_LIBS")]
    ended = suite.run(2, "run", *job, within=("env", *tools))
    suite.check_code(ended, 0, "a run with a tool")
    events = collections.defaultdict(list)
    for line in ended.err.splitlines():
        process, event, *name = line.split(" ", 2)
        if event in ("push", "pop"):
            events[process].append(" ".join([event, *name]))
    expected = [event for name in PREPARE + REFIT + REFIT + END for event in (f"push {name}", "pop")]
    suite.check(len(events) == 2, f"regions of {len(events)} processes", ended)
    for process, found in events.items():
        suite.check(found == expected, f"process {process}: {found}", ended)


Suite(__doc__).main(phases)
