"""Runs refit with SGLang as its engine on tiny checkpoints and compares gen's dumps with what SGLang held.

The train side is Megatron-Core's, on one rank; what SGLang refused must be refused. Weights that SGLang processed after
loading, and quantised ones, of which the record has digests, are compared by tests/unit/gen_sglang_record_test.cpp.

    oracle_sglang_test.py --refit EXE --archive sglang.tar.xz --work FOLDER --checkpoint NAME
    oracle_sglang_test.py --archive sglang.tar.xz --work FOLDER --complete NAME...    are these all, with every layout?
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import compare_oracle  # noqa: E402
import safetensors  # noqa: E402
from launcher import mpirun  # noqa: E402

COMPARED = 87  # layouts, of those that SGLang loaded
USAGE = 2  # exit code of a refused layout
# Arguments of SGLang that say nothing of weights.
OTHER = ("enable_dp_attention", "kv_cache_dtype")
HEAD = "lm_head.weight"
GPU = {"H100": "sm90", "B200": "sm100"}


def unpack(archive, folder):
    if not os.path.exists(os.path.join(folder, "engines", "index.json")):
        os.makedirs(folder, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder)
    return os.path.join(folder, "engines")


def read(engines, checkpoint, name):
    with open(os.path.join(engines, "ckpt", checkpoint, name), encoding="utf-8") as file:
        return json.load(file)


def entries(engines, checkpoint):
    """The layouts of a checkpoint that are compared here."""
    with open(os.path.join(engines, "index.json"), encoding="utf-8") as file:
        index = json.load(file)
    return [e for e in index if e["checkpoint"] == checkpoint and "needs" not in e and "post" not in e
            and os.path.isdir(os.path.join(engines, "ckpt", checkpoint))]


def settings(entry, engines):
    """The keys of a layout; the layout itself is made of sizes among SGLang's arguments."""
    sizes = {"TP": 1, "EP": 1, "PP": 1}
    keys = {"gen.engine": "sglang", "gen.gpu_arch": GPU[entry["gpu"]]}
    for name, value in entry["args"].items():
        if name in ("tp_size", "ep_size", "pp_size"):
            sizes[name[:2].upper()] = value
        elif name == "dp_size":
            keys["gen.attn_dp_size"] = value
        elif name.startswith("speculative_"):
            keys["gen.mtp"] = "only"
        elif name not in OTHER:
            keys["gen." + name] = value
    config = read(engines, entry["checkpoint"], "config.json")
    if "kv_lora_rank" in config:
        keys["gen.derived"] = True
    # SGLang ignores the head of a tied checkpoint, where it may differ; Megatron-Core cannot.
    held = read(engines, entry["checkpoint"], "model.safetensors.index.json")["weight_map"]
    if config["tie_word_embeddings"] and HEAD in held:
        keys["model.skip"] = [HEAD]
    layout = "x".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1) or "TP1"
    result = ["--gen", layout]
    for key, value in keys.items():
        result += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return result


def is_close(ours, theirs):
    """Float32 values at most one unit in the last place apart: torch's exponential is one off in places."""
    if ours.dtype != "F32" or ours.shape != theirs.shape:
        return False
    units = [struct.unpack(f"<{len(tensor.data) // 4}i", tensor.data) for tensor in (ours, theirs)]
    return all(abs(a - b) <= 1 for a, b in zip(*units))


def differences(entry, engines, dumps):
    """What is wrong with the dumps of all ranks."""
    for rank in range(entry["ranks"]):
        files = (os.path.join(dumps, f"gen-rank-{rank:05d}.safetensors"),
                 os.path.join(engines, entry["folder"], f"rank{rank}.safetensors"))
        ours, theirs = (compare_oracle.compared(safetensors.read(file)) for file in files)
        for name in sorted(ours.keys() | theirs.keys()):
            if name in entry.get("never_written", []):
                continue
            if name not in ours or name not in theirs:
                yield f"rank {rank}: {name} is only in {'SGLang' if name not in ours else 'the dump'}"
                continue
            message = compare_oracle.compare_tensor(ours[name], theirs[name])
            if message and not (name.endswith("mixer.A") and is_close(ours[name], theirs[name])):
                yield f"rank {rank}: {name}: {message}"


def check(args, engines, entry, dumps):
    """What is wrong with one layout."""
    shutil.rmtree(dumps, ignore_errors=True)
    refused = "refused" in entry
    command = [*mpirun(1 + entry["ranks"]), args.refit, "run", "--device", args.device]
    command += ["--checkpoint", os.path.join(engines, "ckpt", args.checkpoint), "--train", "TP1"]
    command += ["--precision", "fp32", "--set", "run.update=none", "--steps", "1", "--warmup", "0", "--force"]
    command += ["--dump-gen", dumps, *settings(entry, engines)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != (USAGE if refused else 0):
        return [f"exit code {run.returncode} from: {' '.join(command)}", run.stdout[-1500:], run.stderr[-1500:]]
    return [] if refused else list(differences(entry, engines, dumps))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--archive", "--work"):
        parser.add_argument(name, required=True)
    for name in ("--refit", "--checkpoint"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--complete", nargs="+")
    args = parser.parse_args()
    engines = unpack(args.archive, os.path.join(args.work, args.checkpoint or "complete"))
    if args.complete:
        found = [e["folder"] for name in args.complete for e in entries(engines, name) if "refused" not in e]
        print(f"{len(found)} layouts compared, {COMPARED} wanted")
        return 0 if len(found) == COMPARED else 1
    failed = 0
    for entry in entries(engines, args.checkpoint):
        wrong = check(args, engines, entry, os.path.join(args.work, args.checkpoint, "dumps"))
        failed += bool(wrong)
        print(f"{entry['folder']}: {'FAILED' if wrong else 'refused' if 'refused' in entry else 'equal'}", flush=True)
        for line in wrong[:20]:
            print(f"  {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
