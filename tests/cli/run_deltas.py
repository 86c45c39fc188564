"""Deltas end to end: every refit is right whatever changed, layouts, precisions and ways of committing; what they send.

    run_deltas.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

DENSE = ("--model", "qwen3-0.6b-small", "--layers", 2)
MOE = ("--model", "qwen3-30b-a3b-small", "--layers", 2)
ONE_LANE = ("--set", "refit.streams=1", "--set", "refit.ring_chunks=1", "--set", "refit.chunk_bytes=4KiB")
REFITS = 4


def good(suite, name, ranks, model, train, gen, delta, update, *options):
    """The section `delta` of a run of which every refit is right."""
    ended = suite.run(
        ranks, "run", *model, "--train", train, "--gen", gen, "--executor", "p2p", "--delta", delta, "--set", f"run.update={update}",
        "--steps", REFITS - 1, "--warmup", 1, *options, "--force", "--json", f"{name}.json",
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    found = result["verification"]
    suite.check(found["elements_wrong"] == 0 and found["refits"] == REFITS, f"{name}: {found}", ended)
    suite.check((result["settings"]["delta"], result["settings"]["update"]) == (delta, update), f"{name}: {result['settings']}", ended)
    suite.check(f"# delta          {delta}: " in ended.out, f"{name}: no line of deltas", ended)
    for phase in ("count", "exchange", "encode", "wire", "decode", "keep"):
        suite.check(f"bulk.{phase}" in result["phases"], f"{name}: no phase {phase}", ended)
    return result["delta"]


def forms(suite):
    """Bytes and fractions of every form: of two-byte elements an index costs 4 bytes, a bitmap a bit and 2 bytes."""
    for delta in ("auto", "index", "bitmap"):
        for fraction in (0.025, 0.3, 1):
            found = good(suite, f"{delta}-{fraction}", 6, DENSE, "TP2xPP2", "TP2", delta, f"sparse:{fraction}")
            dense = found["dense_bytes"]
            suite.check(abs(found["changed_fraction"] - fraction) < 0.01, f"{delta} {fraction}: {found}")
            index, bitmap = 2 * fraction, 1 / 16 + fraction
            ratio = {"auto": min(index, bitmap, 1), "index": min(index, 1), "bitmap": min(bitmap, 1)}[delta]
            suite.check(abs(found["bytes"] / dense - ratio) < 0.01, f"{delta} {fraction}: {found['bytes'] / dense}, not {ratio}")
            suite.check(0 < found["kept_bytes_max"] <= dense, f"{delta} {fraction}: {found}")


def nothing_changes(suite):
    for update in ("none", "sparse:0"):
        found = good(suite, "nothing", 4, DENSE, "TP2", "TP2", "auto", update)
        suite.check((found["bytes"], found["changed_fraction"]) == (0, 0), f"{update}: {found}")


def precisions(suite):
    """What is quantised on the way is compared as it is sent: a part of the weights that change."""
    for precision in ("fp32", "fp16", "fp32:bf16", "bf16:fp32", "bf16:fp8", "bf16:mxfp8", "bf16:nvfp4", "bf16:int4"):
        quantised = precision.split(":")[-1] in ("fp8", "mxfp8", "nvfp4", "int4")
        for delta in ("auto", "index", "bitmap") if quantised else ("auto",):
            name = f"{precision.replace(':', '-')}-{delta}"
            found = good(suite, name, 3, DENSE, "TP2", "TP1", delta, "sparse:0.1", "--precision", precision)
            expected = 0 < found["changed_fraction"] < 0.2 if quantised else abs(found["changed_fraction"] - 0.1) < 0.01
            suite.check(expected, f"{name}: {found}")
            suite.check(found["bytes"] < found["dense_bytes"] / 2, f"{name}: {found}")


def layouts(suite):
    """Replicas, several engines, experts, colocated ranks, a misc path beside the bulk path."""
    for name, ranks, model, train, gen, options in (
        ("replicas", 4, DENSE, "TP2", "DP2", ()),
        ("engines", 5, DENSE, "TP2", "TP1+TP2", ()),
        ("train-replicas", 4, DENSE, "DP2", "TP2", ()),
        ("experts", 4, MOE, "EP2", "TP2xEP2", ()),
        ("stages", 6, MOE, "EP2xPP2", "TP2", ("--set", "refit.communicators=per-stage")),
        ("colocated", 2, DENSE, "TP2", "DP2", ("--colocated",)),
        ("colocated", 4, MOE, "EP4", "TP4", ("--colocated",)),
        ("misc", 4, DENSE, "TP2", "TP2", ("--bulk", "ffn")),
        ("one-lane", 4, DENSE, "TP2", "TP2", ONE_LANE),
    ):  # fmt: skip
        for delta in ("auto", "index", "bitmap") if name == "engines" else ("auto",):
            found = good(suite, f"{name}-{delta}", ranks, model, train, gen, delta, "sparse:0.1", *options)
            suite.check(found["bytes"] < found["dense_bytes"] / 2, f"{name}: {found}")


def commits(suite):
    """Each place of staged weights has deltas of its own, against the refit before the last; layers have theirs."""
    for commit in ("stage", "layers"):
        found = good(suite, commit, 4, DENSE, "TP2", "TP2", "auto", "sparse:0.1", "--set", f"refit.commit={commit}")
        suite.check(found["bytes"] < found["dense_bytes"], f"{commit}: {found}")
    # What has no second place is written by both places' refits.
    options = ("--set", "refit.commit=stage", "--set", "refit.stage_bytes=2MiB")
    good(suite, "partly", 4, DENSE, "TP2", "TP2", "auto", "sparse:0.1", *options)


def proofs_mend(suite):
    """After a proof that failed the next refit sends everything."""
    bug = os.path.join(suite.args.inputs, "bugs", "B64-delta-wrong-base.toml")
    ended = suite.run(4, "run", bug, "--steps", 5, "--json", "mended.json", "--csv", "mended.csv", "--force")
    suite.check_code(ended, 0, "B64, five refits")
    sent = suite.result("mended.json", ended)["delta"]
    with open(suite.path("mended.csv"), encoding="utf-8", newline="") as file:
        wrong = [int(row["elements_wrong"]) for row in csv.DictReader(file)]
    suite.check([count > 0 for count in wrong] == [False, False, True, False, False], f"mended: {wrong}", ended)
    everything = [bytes == sent["dense_bytes"] for bytes in sent["bytes_samples"]]
    suite.check(everything == [True, False, False, True, False], f"mended: {sent}", ended)


Suite(__doc__).main(forms, nothing_changes, precisions, layouts, commits, proofs_mend)
