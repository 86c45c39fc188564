"""Every small case of a family under every policy: right data, and the payload and wire that were planned.

A case whose file names a policy (...-whitelist.toml) is run as it stands; the row's other policies, and those of a case
that names none, are set with --bulk. Executors take turns, so that each occurs.

    run_rows.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER --family FAMILY
"""

import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import check_result, without_hosts  # noqa: E402

# family: how the names of its cases begin
PREFIXES = {
    "deepseek_v3": "deepseek-v3-",
    "deepseek_v32": "deepseek-v3.2-",
    "glm4_moe": "glm-4.5-",
    "gpt_oss": "gpt-oss-",
    "llama4": "llama-4-",
    "minimax_m2": "minimax-m2-",
    "mixtral": "mixtral-",
    "nemotron_h": "nemotron-3-",
    "qwen3": "qwen3-4b-|qwen3-8b-|qwen3-vl-8b-",
    "qwen3_5_moe": "qwen3.5-",
    "qwen3_moe": "qwen3-30b-|qwen3-235b-",
    "qwen3_next": "qwen3-next-",
}
POLICIES = ("all", "whitelist", "ffn")
EXECUTORS = ("golden", "p2p", "direct")
# ffn knows the names of no tensor of these: all of the payload is misc
NOTHING_BULK = re.compile(r"mixtral-|minimax-m2-|llama-4-|gpt-oss-|.*-mtp-drafter")


def family_of(name):
    found = [family for family, prefix in PREFIXES.items() if re.match(prefix, name)]
    return found[0] if len(found) == 1 else None


def rows(suite):
    """{case without its policy: {policy or None: file}} of all small cases."""
    result = {}
    for file in sorted(glob.glob(os.path.join(suite.args.inputs, "cases", "small", "*.toml"))):
        name = os.path.splitext(os.path.basename(file))[0]
        row, policy = re.fullmatch(rf"(.+?)(?:-({'|'.join(POLICIES)}))?", name).groups()
        result.setdefault(row, {})[policy] = file
    return result


def run_row(suite, family, row, files, turn):
    any_file = next(iter(files.values()))
    for number, policy in enumerate(POLICIES):
        executor = EXECUTORS[(turn + number) % len(EXECUTORS)]
        where = f"{row}-{policy}-{executor}"
        case = [files[policy]] if policy in files else [any_file, "--bulk", policy]
        case += ["--executor", executor, "--force", "--json"]
        ended = suite.run(0, "plan", *case, f"{where}-plan.json")
        if not suite.check_code(ended, 0, f"plan of {where}"):
            continue
        planned = suite.result(f"{where}-plan.json", ended)
        ranks = planned["train"]["ranks"] + planned["gen"]["ranks"]
        suite.check(8 <= ranks <= 16, f"{row}: {ranks} ranks; a small case has 8 to 16")
        ended = suite.run(ranks, "run", *case, f"{where}.json", "--steps", 1, "--warmup", 0)
        if not suite.check_code(ended, 0, where):
            continue
        done = suite.result(f"{where}.json", ended)
        check_result(suite, ended, done, policy, where, refits=1)
        settings = (done["settings"]["bulk"], done["settings"]["executor"], done["model"]["family"])
        suite.check(settings == (policy, executor, family), f"{where}: {settings}", ended)
        nothing = policy == "ffn" and NOTHING_BULK.match(row) is not None
        suite.check((done["payload"]["bulk_bytes"] == 0) == nothing, f"{where}: {done['payload']}", ended)
        check_planned(suite, ended, planned, done, where)


def check_planned(suite, ended, planned, done, where):
    """The job did what was planned; golden moves more, since it sends whole shards to all of gen."""
    for part in ("payload", "model"):
        suite.check(planned[part] == done[part], f"{where}: {part} {done[part]}, planned {planned[part]}", ended)
    ours, theirs = (without_hosts(each["wire"]) for each in (done, planned))
    same = ours["bytes"] >= theirs["bytes"] if done["settings"]["executor"] == "golden" else ours == theirs
    suite.check(same, f"{where}: wire {ours}, planned {theirs}", ended)


def every_case_has_a_family(suite):
    """Otherwise no entry runs it."""
    for row in rows(suite):
        suite.check(family_of(row) is not None, f"{row} belongs to none, or to several, of {', '.join(PREFIXES)}")


def every_policy(suite):
    family = suite.rest[suite.rest.index("--family") + 1]
    found = {row: files for row, files in rows(suite).items() if family_of(row) == family}
    suite.check(found, f"no small case of {family}")
    for turn, (row, files) in enumerate(found.items()):
        run_row(suite, family, row, files, turn)


Suite(__doc__).main(every_case_has_a_family, every_policy)
