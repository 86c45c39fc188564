"""Runs refit on tiny checkpoints and compares the train side's dumps with what torch's FSDP2 held on every rank.

    fsdp_oracle_test.py --refit EXE --archive fsdp.tar.xz --work FOLDER --checkpoint NAME [--device cuda]
    fsdp_oracle_test.py --archive fsdp.tar.xz --work FOLDER --complete NAME...     are these all, with every layout?

Names, shapes, dtypes and every element must agree, of empty shards too; what torch refused, refit must refuse.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import compare_oracle  # noqa: E402
from launcher import mpirun  # noqa: E402
from oracle_test import unpack  # noqa: E402

SHOWN = 20  # differences printed per run
LAYOUTS = {"compared": 126, "refused": 3}
LEFT_OUT = {"fsdp/llama_tied/tponly_tp2_sp"}  # parallelize_module alone unties; every framework ties again
AXES = {  # of the archive, by their names there
    "fsdp": "FSDP", "dp": "FSDP", "dp_shard": "FSDP",
    "ddp": "HSDP", "dp_replicate": "HSDP",
    "tp": "TP", "cp": "CP", "ep": "EP", "pp": "PP",
}  # fmt: skip
RECIPES = {"nemo_rl_v1": "nemo_rl", "tp_only": "nemo_rl", "torchtitan_etp": "torchtitan"}
SHARD_DIM = {"first_divisible": "*=first_divisible", "dim1": "*=1", "last": "*=-1"}
IGNORED = {"sp", "mla", "moe_path", "tie_after", "split"}  # what a rank stores does not depend on them
REFUSED = "only dimension 0 may be uneven"


def layout_of(entry):
    """The layout in refit's notation."""
    sizes = dict(entry["sizes"])
    if "efsdp" in sizes and sizes.pop("efsdp") * sizes["ep"] != sizes["fsdp"]:
        sys.exit(f"error: {entry['folder']}: experts are on other ranks")
    if entry["recipe"] == "torchtitan_etp":
        sizes["dp_shard"] = sizes.pop("dp_shard_mod_ep") * sizes["ep"]
    axes = [f"{AXES[axis]}{size}" for axis, size in sizes.items()]
    if entry["recipe"] == "torchtitan_etp":
        axes.append(f"ETP{sizes['tp']}")
    return "x".join(axes)


def settings_of(entry):
    """The keys of a case, as --set takes them."""
    options = dict(entry["options"])
    recipe = entry["recipe"]
    settings = {"train.trainer": "fsdp", "train.recipe": RECIPES.get(recipe, recipe), "run.update": "none"}
    if settings["train.recipe"] == "torchtitan":
        settings["train.dtensors"] = "spmd_types" if options.pop("spmd", False) else "partial_dtensor"
    if "placement_fn" in options:
        settings["train.shard_dim"] = json.dumps([SHARD_DIM[options.pop("placement_fn")]])
    if "virtual" in options:
        settings["train.virtual_stages"] = options.pop("virtual")
    if "style" in options:
        settings["train.pipeline_style"] = options.pop("style")
    unknown = set(options) - IGNORED
    if unknown or options.get("split", recipe) != recipe:
        sys.exit(f"error: {entry['folder']}: no key for {unknown or options['split']}")
    return settings


def command(args, archive, entry, dumps):
    checkpoint = os.path.join(archive, "ckpt", entry["checkpoint"])
    with open(os.path.join(checkpoint, "config.json"), encoding="utf-8") as file:
        precision = {"float32": "fp32", "bfloat16": "bf16"}[json.load(file)["torch_dtype"]]
    result = [*mpirun(entry["ranks"] + 1), args.refit, "run", "--device", args.device, "--checkpoint", checkpoint]
    result += ["--train", layout_of(entry), "--gen", "TP1", "--precision", precision]
    result += ["--steps", "1", "--warmup", "0", "--force", "--dump-train", dumps]
    for key, value in settings_of(entry).items():
        result += ["--set", f"{key}={value}"]
    return result


def check(args, archive, entry, dumps):
    """The differences between refit and torch; [] means that everything agrees."""
    shutil.rmtree(dumps, ignore_errors=True)
    os.makedirs(dumps)
    arguments = command(args, archive, entry, dumps)
    run = subprocess.run(arguments, capture_output=True, text=True)
    if entry["refused"]:
        right = run.returncode == 2 and REFUSED in run.stderr
        return [] if right else [f"torch refuses this; exit code {run.returncode}", run.stderr[-2000:]]
    if run.returncode != 0:
        return [f"exit code {run.returncode} from: {' '.join(arguments)}", run.stdout[-2000:], run.stderr[-2000:]]
    return compare_oracle.compare_folders(dumps, "train", os.path.join(archive, entry["folder"].split("/", 1)[1]))


def compare_checkpoint(args, archive, index):
    """Whether every layout of the checkpoint agrees with torch."""
    entries = [entry for entry in index if entry["checkpoint"] == args.checkpoint and entry["folder"] not in LEFT_OUT]
    failed = 0
    for entry in entries:
        differences = check(args, archive, entry, os.path.join(args.work, "dumps", args.checkpoint))
        failed += bool(differences)
        good = "refused" if entry["refused"] else "equal"
        print(f"{entry['folder']}: {layout_of(entry)}: {'FAILED' if differences else good}", flush=True)
        for line in differences[:SHOWN]:
            print(f"  {line}")
        if len(differences) > SHOWN:
            print(f"  ... {len(differences)} differences in all")
    print(f"{len(entries)} layouts compared, {failed} failed")
    return bool(entries) and not failed


def complete(names, index, wanted):
    """Whether the runs of these checkpoints are all of the archive's, and as many as are wanted."""
    mine = [entry for entry in index if entry["checkpoint"] in names and entry["folder"] not in LEFT_OUT]
    refused = sum(entry["refused"] for entry in mine)
    counts = {"compared": len(mine) - refused, "refused": refused}
    print(f"layouts: {counts}, wanted: {wanted}; in the archive: {len(index)}")
    return counts == wanted and len(mine) + len(LEFT_OUT) == len(index)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--archive", "--work"):
        parser.add_argument(name, required=True)
    for name in ("--refit", "--checkpoint"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--complete", nargs="+")
    args = parser.parse_args()
    archive = unpack(args.archive, args.work)
    with open(os.path.join(archive, "index.json"), encoding="utf-8") as file:
        index = json.load(file)
    if args.complete:
        good = complete(args.complete, index, LAYOUTS)
    else:
        good = compare_checkpoint(args, archive, index)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
