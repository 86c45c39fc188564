"""Cases of the bug catalogue end to end: each ends as it expects, its fixed twin passes, and without expecting the bug
it is an error.

    run_bugs.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

# A wrong layout of gen and of train, a lost tensor, scales, and what planning and setup refuse: name, ranks, exit code
# of the bug where it is not expected.
BUGS = (
    ("B1-contiguous-w13", 6, 1),
    ("B5-bf16-to-fp8", 3, 2),
    ("B6-missing-up", 4, 1),
    ("B7-default-stage", 4, 3),
    ("B33-scales-on-wrong-axis", 3, 1),
    ("B41-more-ranks-than-groups", 5, 2),
    ("B46-initial-slots", 6, 1),
    ("B47-shards-as-replicas", 4, 1),
    ("B49-old-global-scales", 4, 1),
    ("B52-inverted-scales", 4, 1),
    ("B56-old-magnitudes", 3, 1),
)


def case(suite, name):
    return os.path.join(suite.args.inputs, "bugs", f"{name}.toml")


def bugs_show(suite):
    for name, ranks, _ in BUGS:
        ended = suite.run(ranks, "run", case(suite, name), "--json", f"{name}.json", "--force")
        suite.check_code(ended, 0, name)
        suite.check(suite.result(f"{name}.json", ended)["status"] == "passed", f"{name}: not as expected", ended)


def fixed_twins_pass(suite):
    for name, ranks, _ in BUGS:
        ended = suite.run(ranks, "run", case(suite, name), "--fixed", "--json", f"{name}.json", "--force")
        suite.check_code(ended, 0, f"{name} --fixed")
        result = suite.result(f"{name}.json", ended)
        suite.check(result["verification"]["elements_wrong"] == 0, f"{name} --fixed: wrong elements", ended)
        suite.check("error" not in result, f"{name} --fixed: {result.get('error')}", ended)


def bugs_are_errors(suite):
    """What a case expects is what makes it pass."""
    for name, ranks, code in BUGS:
        with open(case(suite, name), encoding="utf-8") as file:
            text = file.read()
        with open(suite.path(f"{name}.toml"), "w", encoding="utf-8") as file:
            text = text[: text.index("[expect]")]
            for key in ("config", "expert_placement"):
                text = text.replace(f'{key} = "', f'{key} = "{suite.args.inputs}/bugs/')
            file.write(text)
        ended = suite.run(ranks, "run", f"{name}.toml")
        suite.check_code(ended, code, f"{name}, not expected")


def lists(suite):
    """Every case of the catalogue is listed, in the order of the numbers."""
    lines = suite.run(0, "list", "bugs").out.splitlines()
    files = {name[:-5] for name in os.listdir(os.path.join(suite.args.inputs, "bugs")) if name.endswith(".toml")}
    suite.check({line.split()[0] for line in lines} == files, f"refit list bugs: {lines}")
    numbers = [int("".join(filter(str.isdigit, line.split()[1]))) for line in lines]
    suite.check(numbers == sorted(numbers), f"refit list bugs: {numbers}")


def mistakes(suite):
    ended = suite.run(0, "run", "--fixed", "--model", "qwen3-4b-small", "--train", "TP1", "--gen", "TP1")
    suite.check_code(ended, 2, "--fixed without a case")
    suite.check("--fixed needs a case file with a [bug]" in ended.err, "--fixed without a case", ended)


Suite(__doc__).main(bugs_show, fixed_twins_pass, bugs_are_errors, lists, mistakes)
