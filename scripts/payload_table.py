#!/usr/bin/env python3
"""Prints, as Markdown, what `refit plan` says is bulk and misc of each published model under the field's two rules.

    scripts/payload_table.py [--refit build/cpu/bin/refit] [--inputs inputs] > results/payload.md
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
GIB = 2**30

INTRODUCTION = """# Payload of the published models

Made by `scripts/payload_table.py > results/payload.md` from `refit plan` with TP1 -> TP1 in BF16 (expert bias FP32): each
tensor that gen stores counts once, at its Hugging Face shape. Columns: GiB on the bulk path / GiB on the misc path /
bulk fraction. "qkv->misc" is the same with a gen TP above the number of KV heads, which takes query, key and value off
the bulk path under `whitelist`.
"""
NOTES = """
DeepSeek-V3's latent attention has as many KV heads as query heads: nothing is carved out at any legal TP.
Qwen2.5-7B has no legal TP above its 4 KV heads: there the script moves q_proj, k_proj and v_proj to misc itself.
"""
HEADER = (
    "model", "HF tensors", "params", "total GiB", "whitelist, qkv bulk", "whitelist, qkv->misc", "ffn",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    title: str
    model: str
    carved_tp: int  # a legal gen TP above the number of KV heads; 0: there is none
    options: tuple = ()


LM_HEAD = ("--set", "model.tied_lm_head=present")
ROWS = (
    Row("Qwen3-0.6B (tied, lm_head in ckpt)", "qwen3-0.6b", 16, LM_HEAD),
    Row("Qwen3-1.7B (tied, lm_head in ckpt)", "qwen3-1.7b", 16, LM_HEAD),
    Row("Qwen3-4B (tied)", "qwen3-4b", 16),
    Row("Qwen3-8B", "qwen3-8b", 16),
    Row("Qwen3-32B", "qwen3-32b", 16),
    Row("Qwen2.5-7B", "qwen2.5-7b", 0),
    Row("Llama-3.2-1B (tied)", "llama-3.2-1b", 16),
    Row("Llama-3.1-8B", "llama-3.1-8b", 16),
    Row("Llama-3.1-70B", "llama-3.1-70b", 16),
    Row("Qwen3-30B-A3B", "qwen3-30b-a3b", 8),
    Row("Qwen3-235B-A22B", "qwen3-235b-a22b", 8),
    Row("DeepSeek-V3 (no MTP)", "deepseek-v3", 128),
    Row("Nemotron-3-Nano-30B", "nemotron-3-nano-30b-a3b", 4),
    Row("Nemotron-3-Super-120B (no MTP)", "nemotron-3-super-120b-a12b", 4),
    Row("Mixtral-8x7B", "mixtral-8x7b", 16),
    Row("Qwen3.5-397B LM (no MTP/vision)", "qwen3.5-397b-a17b", 4),
)


@dataclass(frozen=True)
class Tensor:
    path: str  # bulk | misc
    role: str
    elements: int


class Planner:
    """`refit plan` of one executable and one inputs folder."""

    def __init__(self, refit, inputs, folder):
        self.refit, self.inputs, self.json = refit, inputs, os.path.join(folder, "plan.json")

    def plan(self, row, bulk, gen_tp):
        """(result document, what --classify printed: the tensors that gen stores and train has)."""
        command = [self.refit, "plan", "--inputs", self.inputs, "--model", row.model, *row.options, "--bulk", bulk]
        command += ["--train", "TP1", "--gen", f"TP{gen_tp}", "--classify", "--json", self.json, "--force"]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0:
            sys.exit(f"error: exit code {ended.returncode} from {' '.join(command)}\n{ended.stderr}")
        found = re.findall(r"^(bulk|misc) +(\S+) +\[([\d, ]+)\] ", ended.stdout, re.MULTILINE)
        with open(self.json, encoding="utf-8") as file:
            return json.load(file), [Tensor(p, r, math.prod(map(int, shape.split(",")))) for p, r, shape in found]


def gib(size, digits):
    return f"{size / GIB:.{digits}f}"


def cell(payload, digits):
    fraction = payload["bulk_bytes"] / payload["total_bytes"]
    return f"{gib(payload['bulk_bytes'], 2)} / {gib(payload['misc_bytes'], digits)} / {100 * fraction:.1f}%"


def carved(planner, row, uncarved, tensors):
    """The payload under whitelist with query, key and value on the misc path."""
    if row.carved_tp > 0:
        return planner.plan(row, "whitelist", row.carved_tp)[0]["payload"]
    attention = {"q_proj", "k_proj", "v_proj"}
    moved = sum(2 * t.elements for t in tensors if t.path == "bulk" and t.role in attention)
    return {
        "bulk_bytes": uncarved["bulk_bytes"] - moved,
        "misc_bytes": uncarved["misc_bytes"] + moved,
        "total_bytes": uncarved["total_bytes"],
    }


def line(planner, row):
    document, tensors = planner.plan(row, "whitelist", 1)
    whitelist = document["payload"]
    ffn = planner.plan(row, "ffn", 1)[0]["payload"]
    return (
        row.title, str(len(tensors)), f"{sum(t.elements for t in tensors):,}", gib(whitelist["total_bytes"], 2),
        cell(whitelist, 4), cell(carved(planner, row, whitelist, tensors), 2), cell(ffn, 2),
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refit", default=os.path.join(ROOT, "build", "cpu", "bin", "refit"))
    parser.add_argument("--inputs", default=os.path.join(ROOT, "inputs"))
    args = parser.parse_args()
    print(INTRODUCTION)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    with tempfile.TemporaryDirectory() as folder:
        planner = Planner(args.refit, args.inputs, folder)
        for row in ROWS:
            print(f"| {' | '.join(line(planner, row))} |", flush=True)
    print(NOTES, end="")


if __name__ == "__main__":
    main()
