"""Bugs of schedules, end to end: hangs, memory, late bytes and ranks that do not agree. Each ends as its case expects and
its fixed twin passes; where ranks are allowed to compare notes, what hung is an error before the first byte.

    run_bug_schedules.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

# Name and ranks of a case for each way in which a schedule goes wrong.
BUGS = (("B11-kept-receive-buffers", 3), ("B14-tied-head", 4), ("B17-undrained-stream", 4), ("B36-rank-per-node", 6))

# What hangs without the check, and what the check says.
DISAGREEMENTS = (
    ("B4-router-bytes", "on the plan, first in tensor model.layers.0.block_sparse_moe.gate.weight"),
    ("B9-megatron-names", "on the misc stream, of 19 and 11 tensors, first in tensor model.layers.0.self_attn.q_proj"),
    ("B13b-silent-skip", "on the plan, first in tensor model.layers.0.mlp.experts.0.gate_proj.weight"),
    ("B14-tied-head", "on the misc stream"),
)


def run(suite, ranks, name, *arguments):
    case = os.path.join(suite.args.inputs, "bugs", f"{name}.toml")
    ended = suite.run(ranks, "run", case, *arguments, "--json", f"{name}.json", "--force")
    return ended, suite.result(f"{name}.json", ended)


def bugs_show(suite):
    for name, ranks in BUGS:
        ended, result = run(suite, ranks, name)
        suite.check_code(ended, 0, name)
        suite.check(result["status"] == "passed", f"{name}: not as expected", ended)


def fixed_twins_pass(suite):
    for name, ranks in BUGS:
        ended, result = run(suite, ranks, name, "--fixed")
        suite.check_code(ended, 0, f"{name} --fixed")
        suite.check(result["verification"]["elements_wrong"] == 0, f"{name} --fixed: wrong elements", ended)


def disagreements_are_errors(suite):
    for name, text in DISAGREEMENTS:
        checked = ("--set", "refit.check_agreement=true", "--set", "expect.outcome=error")
        ended, result = run(suite, 4, name, *checked, "--set", "expect.message=disagree")
        suite.check_code(ended, 0, f"{name}, checked")
        message = result.get("error", {}).get("message", "")
        suite.check(f"disagree {text}" in message, f"{name}, checked: {message}", ended)


def what_is_expected_is_checked(suite):
    """A figure out of its bounds and a note that is not there are failures."""
    ended, result = run(suite, 3, "B11-kept-receive-buffers", "--set", "refit.ring_chunks=2")
    suite.check_code(ended, 1, "a figure out of bounds")
    text = "memory.staging_bytes_max >= 2097152 expected, 131072 found"
    suite.check(text in result["error"]["message"], f"{result['error']}", ended)
    ended, result = run(suite, 4, "B34-silent-fallback", "--set", "run.inject=[]")
    suite.check_code(ended, 1, "a missing note")
    suite.check("expect.note: no note says" in result["error"]["message"], f"{result['error']}", ended)


Suite(__doc__).main(bugs_show, fixed_twins_pass, disagreements_are_errors, what_is_expected_is_checked)
