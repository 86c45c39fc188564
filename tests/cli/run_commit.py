"""Versions, staged refits and refits layer by layer: what results say of them.

    run_commit.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

SMALL = ("--model", "qwen3-0.6b-small", "--layers", 4)


def run(suite, name, *arguments, ranks=4, train="TP2", gen="TP2", code=0, model=SMALL):
    ended = suite.run(
        ranks, "run", *model, "--train", train, "--gen", gen, "--steps", 3, "--warmup", 1, "--force",
        "--json", f"{name}.json", "--csv", f"{name}.csv", *arguments,
    )  # fmt: skip
    suite.check_code(ended, code, name)
    return suite.result(f"{name}.json", ended), ended


def rows(suite, name):
    with open(suite.path(f"{name}.csv"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def versions(suite):
    """Refits count from run.weight_version; the plan's hash is that of `refit plan`, the weights' the proof's."""
    result, ended = run(suite, "versions", "--set", "run.weight_version=41")
    found = result["versions"]
    suite.check((found["first"], found["last"], found["served_wrong"]) == (41, 44, 0), f"versions: {found}")
    suite.check(found["weights"] == result["verification"]["fingerprint_gen"], f"versions: {found}")
    suite.check([int(row["version"]) for row in rows(suite, "versions")] == [41, 42, 43, 44], "versions: rows")
    suite.check(len({row["weights"] for row in rows(suite, "versions")}) == 4, "each refit has other weights")
    suite.check(found["held"] == [44], f"versions: {found}")
    suite.check("gen holds version 44" in ended.out, "versions: summary", ended)
    ended = suite.run(0, "plan", *SMALL, "--train", "TP2", "--gen", "TP2", "--json", "plan.json", "--force")
    suite.check_code(ended, 0, "plan")
    suite.check(suite.result("plan.json", ended)["plan"]["hash"] == found["plan"], "the plan's hash is another")
    result, _ = run(suite, "unproved", "--set", "run.verify=off")
    suite.check("weights" not in result["versions"], f"not proved: {result['versions']}")


def stage(suite):
    """Every executor, precision and place gives what an unstaged refit gives, and pauses only for the flip."""
    for executor in ("golden", "p2p", "direct"):
        plain, _ = run(suite, f"plain-{executor}", "--executor", executor, "--dump-gen", f"plain-{executor}")
        staged, ended = run(
            suite, f"stage-{executor}", "--executor", executor, "--commit", "stage", "--dump-gen", f"stage-{executor}",
        )  # fmt: skip
        suite.check(staged["verification"]["elements_wrong"] == 0, f"stage {executor}: wrong", ended)
        suite.check_code(suite.run(0, "compare", f"plain-{executor}", f"stage-{executor}"), 0, f"stage {executor}")
        suite.check(staged["memory"]["staged_bytes_max"] > 0, f"stage {executor}: {staged['memory']}")
        suite.check(plain["memory"]["staged_bytes_max"] == 0, f"in_place {executor}: {plain['memory']}")
        for row in rows(suite, f"stage-{executor}"):
            parts = float(row["pause_seconds"]) + float(row["background_seconds"])
            suite.check(abs(parts - float(row["weight_sync_seconds"])) < 1e-9, f"stage {executor}: {row}")
    for name, arguments in {
        "fp8": ("--precision", "bf16:fp8"),
        "misc": ("--bulk", "ffn"),
        "cache": ("--precision", "fp8", "--set", "gen.kv_cache_dtype=fp8", "--model", "qwen3-4b-small", "--layers", 2),
        "colocated": ("--colocated",),
        "derived": ("--model", "deepseek-v3-small", "--layers", 4, "--set", "gen.derived=true"),
    }.items():
        model = () if "--model" in arguments else SMALL
        result, ended = run(
            suite, f"stage-{name}", "--commit", "stage", *arguments, ranks=2 if name == "colocated" else 4, model=model,
        )  # fmt: skip
        suite.check(result["verification"]["elements_wrong"] == 0, f"stage {name}: wrong", ended)


def little_memory(suite):
    """What has no room moves in the pause; none at all is a refit in place, and all is proved."""
    seen = []
    for size in ("64", "1MiB", "2MiB", "1GiB"):
        result, ended = run(suite, f"room-{size}", "--commit", "stage", "--set", f"refit.stage_bytes={size}")
        suite.check(result["verification"]["elements_wrong"] == 0, f"room {size}: wrong", ended)
        seen.append(result["memory"]["staged_bytes_max"])
        noted = any("refit.stage_bytes" in note for note in result.get("notes", ()))
        suite.check(noted == (size != "1GiB"), f"room {size}: {result.get('notes')}")
    suite.check(seen == sorted(set(seen)) and seen[0] == 0 and seen[1] <= 1 << 20, f"room: {seen}")


def layers(suite):
    for executor in ("p2p", "direct"):
        result, ended = run(suite, f"layers-{executor}", "--executor", executor, "--commit", "layers")
        suite.check(result["verification"]["elements_wrong"] == 0, f"layers {executor}: wrong", ended)
        names = [name for name in result["phases"] if name.startswith("bulk.")]
        wanted = ["bulk.no layer", *(f"bulk.layer {layer}" for layer in range(4))]
        suite.check(names == wanted, f"layers {executor}: {names}")
        for row in rows(suite, f"layers-{executor}"):
            longest = max(float(row[f"{name}_seconds"]) for name in wanted)
            suite.check(float(row["pause_seconds"]) == longest, f"layers {executor}: {row}")


def wrong_ones_are_given_up(suite):
    """A staged refit whose proof fails is not flipped in: gen keeps the version before it."""
    result, ended = run(suite, "given-up", "--commit", "stage", "--inject", "stale-refit", code=1)
    suite.check(result["versions"]["served_wrong"] == 0, f"given up: {result['versions']}", ended)
    suite.check(result["versions"]["held"] == [1], f"given up: {result['versions']}")
    suite.check("given up" in ended.out and "gen holds version 1;" in ended.out, "given up", ended)
    result, ended = run(suite, "served", "--inject", "stale-refit", code=1)
    suite.check(result["versions"]["served_wrong"] == 3, f"served: {result['versions']}", ended)
    bug = os.path.join(suite.args.inputs, "bugs", "B63-flip-before-proof.toml")
    suite.check_code(suite.run(3, "run", bug), 0, "B63")
    suite.check_code(suite.run(3, "run", bug, "--fixed"), 0, "B63 --fixed")


def mistakes(suite):
    for arguments, text in {
        ("--commit", "layers", "--executor", "golden"): "use direct or p2p",
        ("--commit", "layers", "--set", "refit.stage_bytes=1MiB"): "refit.stage_bytes",
        ("--set", "refit.stage_bytes=1MiB"): "refit.stage_bytes",
        ("--commit", "staged"): "stage",
        ("--set", "run.weight_version=-1"): "run.weight_version",
        ("--inject", "B63-flip-before-proof"): 'refit.commit = "stage"',
    }.items():
        ended = suite.run(4, "run", *SMALL, "--train", "TP2", "--gen", "TP2", *arguments)
        suite.check_code(ended, 2, " ".join(arguments))
        suite.check(text in ended.err, f"{arguments}: {text}", ended)


Suite(__doc__).main(versions, stage, little_memory, layers, wrong_ones_are_given_up, mistakes)
