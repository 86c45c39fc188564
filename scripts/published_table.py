#!/usr/bin/env python3
"""Prints, as Markdown, what `refit plan` says of the published runs: bound, model, and what was measured.

    scripts/published_table.py [--refit build/cpu/bin/refit] [--inputs inputs] > results/published.md
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
HARDWARE = "h100-50gbps"

INTRODUCTION = """# Published runs: bound, model, measurement

Made by `scripts/published_table.py > results/published.md` from `refit plan inputs/cases/published/CASE.toml --hardware
h100-50gbps` with a communicator for each of train's stages. "in flight": stages at a time (`refit.streams`). All times
are seconds; "seconds" and "by": the model and its largest part; published: weight_sync, lowest and highest of a run's
steps; factor: the model against the middle of the published range, whichever way it is above 1. Of the hardware file
one number, the 100 GB/s of one broadcast out of a node, was chosen by one of these rows: DeepSeek-V3 with one stage in
flight.
"""

HEADER = ("model", "train -> gen", "policy", "executor, in flight", "bound", "seconds", "by", "published", "factor")


@dataclass(frozen=True)
class Row:
    model: str
    case: str  # in inputs/cases/published
    executor: str
    streams: int
    published: tuple  # seconds: lowest, highest
    reason: str = ""


GOLDEN = """
## golden: broadcasts of whole shards

The first versions (NeMo-RL pull requests 2413 and 2808), which broadcast each shard or used a native operation.
"""
P2P = """
## p2p: exact overlaps

The merged version and its commits. Its replicas on gen's side share what they receive; refit's p2p sends each its own.
"""

FIXED = "small: a constant 0.05 to 0.1 s of launches and Python, which no part of the model is"
LOADED = "misc is loaded tensor by tensor in Python on gen's side: 0.3 to 0.9 s of these times, by the commits that measured it apart"
SCALES = "FP8: scales arrive on the misc path, where each module is processed again after loading; 1.0 to 1.5 s for the same layouts in BF16"

GOLDEN_ROWS = (
    Row("DeepSeek-V3", "deepseek-v3-pp16ep16-to-tp32dp8-whitelist", "golden", 1, (15.0, 15.0)),
    Row("DeepSeek-V3", "deepseek-v3-pp16ep16-to-tp32dp8-whitelist", "golden", 2, (7.65, 9.94)),
    Row("Qwen3-235B", "qwen3-235b-tp4pp8ep16-to-tp8dp16-whitelist", "golden", 2, (4.56, 4.85)),
    Row("Nemotron-3-Super", "nemotron-3-super-ep8tp8pp2dp2-to-tp8dp2-whitelist", "golden", 2, (1.66, 1.94)),
    Row("Nemotron-3-Nano", "nemotron-3-nano-ep8tp2-to-tp4dp4-whitelist", "golden", 2, (0.48, 0.55)),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep4tp2dp2-to-tp4dp4-whitelist", "golden", 2, (0.54, 0.67)),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep4tp2pp2-to-tp4dp4-whitelist", "golden", 2, (0.48, 0.52)),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep8pp2-to-tp2dp8-whitelist", "golden", 2, (0.51, 0.55)),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep8pp2-to-tp8dp2-whitelist", "golden", 2, (0.50, 0.51)),
    Row("Qwen3-4B", "qwen3-4b-dp8-to-dp8-whitelist", "golden", 2, (0.07, 0.08), FIXED),
    Row("Qwen3-4B", "qwen3-4b-dp8-to-tp8-whitelist", "golden", 2, (0.07, 0.08), FIXED),
    Row("Qwen3-4B", "qwen3-4b-pp2dp4-to-tp4dp2-whitelist", "golden", 2, (0.09, 0.09), FIXED),
    Row("Qwen3-4B", "qwen3-4b-pp4dp2-to-tp4dp2-whitelist", "golden", 2, (0.13, 0.15), FIXED),
    Row("Qwen3-4B", "qwen3-4b-tp2pp2dp2-to-tp4dp2-whitelist", "golden", 2, (0.13, 0.13), FIXED),
    Row("Qwen3-4B", "qwen3-4b-tp2dp4-to-tp4dp2-whitelist", "golden", 2, (0.11, 0.15), FIXED),
)
P2P_ROWS = (
    Row("DeepSeek-V3", "deepseek-v3-pp16ep16-to-tp32dp8-ffn", "p2p", 2, (2.39, 2.83),
        "gen's eight replicas of a shard each receive an eighth of it there, and train's ports are not the limit"),
    Row("Qwen3.5-397B", "qwen3.5-397b-tp8pp8ep32-to-tp16dp16-ffn", "p2p", 2, (1.97, 2.17), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep4tp2dp2-to-tp4dp4-ffn", "p2p", 2, (1.13, 1.53), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep4tp2pp2-to-tp4dp4-ffn", "p2p", 2, (0.74, 1.17), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep8pp2-to-tp2dp8-ffn", "p2p", 2, (1.21, 1.52), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep8pp2-to-tp8dp2-ffn", "p2p", 2, (0.74, 1.00), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-tp2cp2ep8-to-tp4dp4-ffn", "p2p", 2, (1.02, 1.45), LOADED),
    Row("Qwen3-30B-A3B", "qwen3-30b-ep4tp2dp2-to-tp4ep4dp4-ffn", "p2p", 2, (1.00, 1.60), LOADED),
    Row("Qwen3-30B-A3B FP8", "qwen3-30b-fp8-ep4tp2pp2-to-tp2dp8-ffn", "p2p", 2, (3.19, 4.04), SCALES),
    Row("Qwen3-30B-A3B FP8", "qwen3-30b-fp8-ep8pp2-to-tp2dp8-ffn", "p2p", 2, (3.20, 4.30), SCALES),
    Row("Qwen3-30B-A3B FP8", "qwen3-30b-fp8-ep8dp2-to-tp2dp8-ffn", "p2p", 2, (2.90, 4.00), SCALES),
    Row("Qwen3-4B", "qwen3-4b-dp8-to-tp8-ffn", "p2p", 2, (0.21, 0.34), LOADED),
)  # fmt: skip


def plan(refit, inputs, row, file):
    """`refit plan`'s document of a row."""
    case = os.path.join(inputs, "cases", "published", f"{row.case}.toml")
    command = [refit, "plan", "--inputs", inputs, case, "--hardware", HARDWARE, "--executor", row.executor]
    command += ["--set", "refit.communicators=per-stage", "--set", f"refit.streams={row.streams}"]
    ended = subprocess.run([*command, "--json", file, "--force"], capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(f"error: exit code {ended.returncode} from {' '.join(command)}\n{ended.stderr}")
    with open(file, encoding="utf-8") as stream:
        return json.load(stream)


def factor(model, published):
    ratio = model / math.sqrt(published[0] * published[1])
    return max(ratio, 1 / ratio)


def seconds(value):
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def line(document, row):
    model = document["model_seconds"]
    low, high = row.published
    published = f"{low:g}" if low == high else f"{low:.2f} to {high:.2f}"
    return (
        row.model, document["case"]["description"], document["settings"]["bulk"], f"{row.executor}, {row.streams}",
        seconds(document["bound"]["seconds"]), seconds(model["total"]), model["term"], published,
        f"{factor(model['total'], row.published):.1f}",
    )  # fmt: skip


def print_rows(args, rows, file):
    """The table, and why the model is far from some rows."""
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    far = {}
    for row in rows:
        document = plan(args.refit, args.inputs, row, file)
        print(f"| {' | '.join(line(document, row))} |", flush=True)
        if factor(document["model_seconds"]["total"], row.published) > 2:
            far.setdefault(row.reason or "not explained", []).append(f"{row.model} {document['case']['description']}")
    if far:
        print("\nMore than a factor of 2 from the model:\n")
    for reason, names in far.items():
        print(f"- {'; '.join(names)}: {reason}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refit", default=os.path.join(ROOT, "build", "cpu", "bin", "refit"))
    parser.add_argument("--inputs", default=os.path.join(ROOT, "inputs"))
    args = parser.parse_args()
    print(INTRODUCTION, end="")
    with tempfile.TemporaryDirectory() as folder:
        for title, rows in ((GOLDEN, GOLDEN_ROWS), (P2P, P2P_ROWS)):
            print(title)
            print_rows(args, rows, os.path.join(folder, "plan.json"))


if __name__ == "__main__":
    main()
