"""Runs refit on tiny quantised checkpoints and compares gen's dumps with what vLLM held, after loading and processed.

What vLLM refused must be refused. tests/unit/gen_format_layouts_test.cpp compares the layouts themselves.

    format_layouts_test.py --refit EXE --archive format_layouts.tar.xz --work FOLDER [--checkpoint NAME]... [--train LAYOUT]...
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from launcher import mpirun  # noqa: E402
from oracle_test import unpack  # noqa: E402

USAGE = 2  # exit code of a refused layout
SHOWN = 64  # bytes up to which the record has them themselves
# Refused here, taken by vLLM, which keeps no scale of a group of columns that it cuts.
CUT_GROUPS = ("llama256_gptq/tp4_emulation", "llama256_awq/tp4_emulation")
PRECISIONS = {"nvfp4": "nvfp4", "ct_mxfp4": "mxfp4", "mxfp4": "mxfp4", "fp8_channel": "fp8_channel", "fbgemm": "fp8_channel",
              "fp8": "fp8_tensor", "int4": "int4", "gptq": "gptq", "awq": "awq"}  # fmt: skip
PROCESSED = ("nvfp4", "fp8_tensor", "fp8_channel")


def precision_of(checkpoint):
    return next(word for part, word in PRECISIONS.items() if part in checkpoint)


def is_processed(entry):
    ranks = entry.get("ranks", [])
    known = precision_of(entry["checkpoint"]) in PROCESSED or "ct_mxfp4" in entry["checkpoint"]
    return known and bool(ranks) and all("processed" in rank for rank in ranks)


def keys_of(entry):
    checkpoint, keys = entry["checkpoint"], {}
    cutlass = entry["settings"]["backend"] == "cutlass"
    if cutlass and "gpt_oss" in checkpoint:
        keys["gen.moe_backend"] = "marlin"
    if cutlass and "qwen3_moe" in checkpoint:
        keys["gen.moe_backend"] = "flashinfer_cutlass"
    if is_processed(entry):
        keys["gen.derived"] = "true"
        if cutlass:
            keys["gen.linear_backend"] = "cutlass"
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


def described(tensor):
    data = tensor.data
    text = data.hex() if len(data) <= SHOWN else "sha256:" + hashlib.sha256(data).hexdigest()[:16]
    return [tensor.dtype, list(tensor.shape), text]


def is_buffer(name):
    return "attn._" in name or name.endswith(".attn.kv_cache")


def differences(entry, dumps):
    for number, rank in enumerate(entry["ranks"]):
        theirs = dict(rank["loaded"])
        if is_processed(entry):  # dumps have what was loaded, but for what something is made of with the same name
            theirs.update(rank["processed"])
        ours = safetensors.read(os.path.join(dumps, f"gen-rank-{number:05d}.safetensors"))
        for name in sorted(ours.keys() | theirs.keys()):
            if is_buffer(name) or name in entry["never_written"]:
                continue
            if name not in ours:
                yield f"rank {number}: {name} is missing"
            elif name not in theirs:
                yield f"rank {number}: vLLM has no {name}"
            elif described(ours[name]) != theirs[name]:
                yield f"rank {number}: {name} is {described(ours[name])}, vLLM has {theirs[name]}"


def refit(args, record, checkpoint, train, gen, ranks, *words):
    command = [*mpirun(ranks), args.refit, "run", "--device", args.device, "--train", train, "--gen", gen]
    command += ["--checkpoint", os.path.join(record, "ckpt", checkpoint), "--precision", precision_of(checkpoint), *words]
    return command, subprocess.run(command, capture_output=True, text=True)


def check(args, record, entry, train, dumps):
    """What is wrong with one layout; None where the train side cannot have the model."""
    shutil.rmtree(dumps, ignore_errors=True)
    ranks = (len(entry.get("ranks", [])) or int(entry["settings"]["tp"])) + (1 if train == "TP1" else 2)
    words = ["--set", "run.update=none", "--steps", "1", "--warmup", "0", "--force", "--dump-gen", dumps, *keys_of(entry)]
    command, run = refit(args, record, entry["checkpoint"], train, entry["layout"], ranks, *words)
    refused = "refused" in entry or entry["folder"] in CUT_GROUPS
    if train != "TP1" and run.returncode == USAGE and "  train: " in run.stderr:
        return None
    if run.returncode != (USAGE if refused else 0):
        return [f"exit code {run.returncode} from: {' '.join(command)}", run.stdout[-1500:], run.stderr[-1500:]]
    return [] if refused else list(differences(entry, dumps))


def check_stale(args, record):
    """What is made of scales once only is wrong from the second refit on, and found."""
    result = os.path.join(args.work, "stale.json")
    words = ["--set", "gen.derived=true", "--set", "gen.linear_backend=cutlass", "--inject", "stale-derived"]
    command, run = refit(args, record, "llama_mo_nvfp4_split", "TP1", "TP2", 3, *words, "--steps", "2", "--warmup", "0",
                         "--force", "--json", result)  # fmt: skip
    if run.returncode != 1:
        return [f"exit code {run.returncode} from: {' '.join(command)}", run.stdout[-1500:], run.stderr[-1500:]]
    with open(result, encoding="utf-8") as file:
        found = json.load(file)
    names = {wrong["tensor"] for wrong in found["verification"]["wrong"]}
    wanted = {f"model.layers.0.self_attn.qkv_proj.{part} (derived)" for part in ("weight_scale", "weight_global_scale", "alpha")}
    wrong = [] if wanted <= names else [f"stale: {sorted(names)} are wrong, without some of {sorted(wanted)}"]
    # Multipliers .671875, 1.515625 and .25 of q, k and v: the largest is taken.
    largest = "k_proj.weight_scale_2 is 1.515625"
    if not any(largest in note and "v_proj.weight is decoded 6.062 times as large" in note for note in found["notes"]):
        wrong.append(f"stale: unequal scales are not among the notes {found['notes']}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--archive", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--checkpoint", action="append")
    parser.add_argument("--train", action="append")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    record = unpack(args.archive, args.work)
    with open(os.path.join(record, "index.json"), encoding="utf-8") as file:
        layouts = [e for e in json.load(file) if not args.checkpoint or e["checkpoint"] in args.checkpoint]
    failed = compared = 0
    for entry in layouts:
        for train in args.train or ["TP1"]:
            if train.startswith("EP") and "moe" not in entry["checkpoint"] and "gpt_oss" not in entry["checkpoint"]:
                continue
            wrong = check(args, record, entry, train, os.path.join(args.work, "dumps"))
            if wrong is None:
                continue
            compared += 1
            failed += bool(wrong)
            print(f"{train} -> {entry['folder']}: {'FAILED' if wrong else 'as vLLM'}", flush=True)
            for line in wrong[:20]:
                print(f"  {line}")
    stale = check_stale(args, record)
    print("\n".join(stale) or "what is made once only is found")
    failed += bool(stale)
    print(f"{compared} runs compared, {failed} failed")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
