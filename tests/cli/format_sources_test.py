"""Quantises bf16 checkpoints on the way and compares gen's dumps with what vLLM held of the libraries' own checkpoints.

    format_sources_test.py --refit EXE --archive format_sources.tar.xz --work FOLDER [--whole]

Each is made with another layout of train; with --whole by all of them.
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

# words, ranks, whether it is for models with experts only
TRAIN = (
    (("--train", "TP2"), 2, False),
    (("--train", "TP1"), 1, False),
    (("--train", "FSDP2", "--set", "train.trainer=fsdp"), 2, False),
    (("--train", "TP2xEP2"), 2, True),
)
GEN_RANKS = 2


def differences(row, dumps):
    for number, theirs in enumerate(row["ranks"]):
        ours = safetensors.read(os.path.join(dumps, f"gen-rank-{number:05d}.safetensors"))
        for name, expected in theirs.items():
            if name not in ours:
                yield f"rank {number}: {name} is missing"
                continue
            tensor = ours[name]
            found = [tensor.dtype, list(tensor.shape), hashlib.sha256(tensor.data).hexdigest()[:16]]
            if found != expected:
                yield f"rank {number}: {name} is {found}, vLLM has {expected}"


def check(args, record, row, words, ranks):
    dumps = os.path.join(args.work, "dumps")
    shutil.rmtree(dumps, ignore_errors=True)
    command = [*mpirun(ranks + GEN_RANKS), args.refit, "run", "--device", args.device, *words, "--gen", f"TP{GEN_RANKS}"]
    command += ["--checkpoint", os.path.join(record, row["source"]), "--precision", f"bf16:{row['precision']}"]
    command += ["--set", f"gen.quantiser={row['quantiser']}", "--set", "run.update=none", "--steps", "1", "--warmup", "0"]
    run = subprocess.run([*command, "--dump-gen", dumps], capture_output=True, text=True)
    if run.returncode != 0:
        return [f"exit code {run.returncode} from: {' '.join(command)}", run.stdout[-1500:], run.stderr[-1500:]]
    return list(differences(row, dumps))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--archive", "--work"):
        parser.add_argument(name, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()
    record = unpack(args.archive, args.work)
    with open(os.path.join(record, "index.json"), encoding="utf-8") as file:
        rows = json.load(file)
    compared = failed = 0
    for number, row in enumerate(rows):
        ways = [way for way in TRAIN if not way[2] or row["source"] == "qwen3_moe"]
        for words, ranks, _ in ways if args.whole else [ways[number % len(ways)]]:
            wrong = check(args, record, row, words, ranks)
            compared += 1
            failed += bool(wrong)
            print(f"{words[1]} -> {row['checkpoint']}: {'FAILED' if wrong else 'as ' + row['quantiser']}", flush=True)
            for line in wrong[:20]:
                print(f"  {line}")
    print(f"{compared} runs compared, {failed} failed")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
