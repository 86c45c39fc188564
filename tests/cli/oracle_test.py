"""Runs refit on a family's tiny checkpoint and compares both groups' dumps with what the real engines held.

The i-th train layout is paired with the i-th gen layout, the shorter list repeating, so that every layout occurs.
Of a checkpoint of which one side was not recorded only the other is compared. A checkpoint that the archive has not is
that of engines.tar.xz beside it, or rebuilt from what vLLM held of it.

    oracle_test.py --refit EXE --archive ARCHIVE.tar.xz --work FOLDER --family FAMILY [--device cuda]
    oracle_test.py --archive ARCHIVE.tar.xz --work FOLDER --complete FAMILY...     are these all, with every layout?
"""

import argparse
import fcntl
import glob
import json
import os
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import compare_oracle  # noqa: E402
import safetensors  # noqa: E402
from launcher import mpirun  # noqa: E402

SHOWN = 20  # differences printed per run
LAYOUTS = {  # that are compared, by archive
    "engines": {"train": 74, "gen": 38},
    "families": {"train": 55, "gen": 102},
    "pipelines": {"train": 33, "gen": 30},
}
UNRECORDED = {"checkpoint": None, "layout": "TP2", "ranks": 2, "settings": {}, "folder": None}
# Settings of an archive that are other keys of a case, and their values there. All others are keys as they are.
SETTINGS = {
    "train.virtual_pipeline": ("train.virtual_stages", lambda stages: stages),
    "gen.model_class": ("gen.model_class", lambda name: "nvidia" if ".nvidia." in name else "portable"),
    "gen.mm_encoder_tp_mode": ("gen.mm_encoder_tp", lambda mode: mode),
    "gen.env": ("gen.replicate_embedding", lambda variables: variables == {"VLLM_REPLICATE_EMBED": "1"}),
}


def name_of(archive):
    return os.path.basename(archive).partition(".")[0]


def unpack(archive, work):
    """The unpacked archive; unpacked once per build folder, also when several tests start at once."""
    folder = os.path.join(work, name_of(archive))
    stamp = folder + ".stamp"
    wanted = f"{os.path.getsize(archive)} {os.path.getmtime(archive)}"
    os.makedirs(work, exist_ok=True)
    with open(folder + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(stamp) or open(stamp, encoding="utf-8").read() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(work)
            with open(stamp, "w", encoding="utf-8") as file:
                file.write(wanted)
    return folder


def read_index(folder):
    """The layouts to compare, in refit's words."""
    with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
        index = json.load(file)
    for entry in index:
        entry["settings"].pop("train.expert_tensor_parallel_unset", None)  # what refit takes it for
        etp = entry["settings"].pop("train.expert_tensor_parallel", 1)
        entry["layout"] += f"xETP{etp}" if etp > 1 else ""
    return index


FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}


def part_of(name):
    return name.split(".")[-2]


def rebuild_llama(folder, own):
    """Writes the checkpoint of llama_tied_mg, llama8_tied_mg with 6 layers, which was not recorded, from what vLLM held:
    rows of fused parameters in the checkpoint's order."""
    like = os.path.join(folder, "ckpt", "llama8_tied_mg")
    with open(os.path.join(like, "config.json"), encoding="utf-8") as file:
        config = dict(json.load(file), num_hidden_layers=6)
    held, tensors, taken = {}, {}, {}
    for rank in (0, 1):
        held.update(safetensors.read(os.path.join(folder, f"vllm/llama_tied_mg/pp2/rank{rank}.safetensors")))
    for shard in sorted(glob.glob(os.path.join(like, "*.safetensors"))):
        for name, tensor in safetensors.read(shard).items():
            source = name.replace(part_of(name), FUSED.get(part_of(name), part_of(name)))
            if source in held:
                tensors[name] = (source, tensor)
    order = list(FUSED)
    for name in sorted(tensors, key=lambda name: order.index(part_of(name)) if part_of(name) in FUSED else -1):
        source, tensor = tensors[name]
        begin = taken.get(source, 0)
        taken[source] = begin + len(tensor.data)
        tensors[name] = safetensors.Tensor(tensor.dtype, tensor.shape, held[source].data[begin : taken[source]])
    os.makedirs(own + ".new", exist_ok=True)
    safetensors.write(os.path.join(own + ".new", "model.safetensors"), tensors)
    with open(os.path.join(own + ".new", "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    os.replace(own + ".new", own)


def checkpoint_of(args, folder):
    own = os.path.join(folder, "ckpt", args.family)
    if args.family == "llama_tied_mg" and not os.path.exists(own):
        rebuild_llama(folder, own)
    if os.path.exists(own):
        return own
    return os.path.join(unpack(os.path.join(os.path.dirname(args.archive), "engines.tar.xz"), args.work), "ckpt", args.family)


def entries_of(index, family, side):
    found = [entry for entry in index if entry["checkpoint"] == family and entry["side"] == side]
    return found or [dict(UNRECORDED, side=side)]


def pairs(index, family):
    """(train entry, gen entry), each layout at least once."""
    train, gen = entries_of(index, family, "train"), entries_of(index, family, "gen")
    if not any(map(recorded, train + gen)):
        sys.exit(f"error: the archive has no layout of '{family}'")
    return [(train[i % len(train)], gen[i % len(gen)]) for i in range(max(len(train), len(gen)))]


def setting(key, value):
    key, convert = SETTINGS.get(key, (key, lambda same: same))
    value = convert(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return ["--set", f"{key}={text}"]


def command(args, engines, train, gen, dumps):
    result = [*mpirun(train["ranks"] + gen["ranks"]), args.refit, "run", "--device", args.device]
    result += ["--checkpoint", checkpoint_of(args, engines)]
    result += ["--train", train["layout"], "--gen", gen["layout"], "--precision", "fp32", "--set", "run.update=none"]
    result += ["--steps", "1", "--warmup", "0", "--force"]
    result += ["--dump-train", os.path.join(dumps, "train"), "--dump-gen", os.path.join(dumps, "gen")]
    for entry in (train, gen):
        for key, value in entry["settings"].items():
            result += setting(key, value)
    return result


def check_pair(args, engines, train, gen, dumps):
    """The differences of one run from both engines; [] means that everything agrees."""
    shutil.rmtree(dumps, ignore_errors=True)
    os.makedirs(dumps)
    arguments = command(args, engines, train, gen, dumps)
    run = subprocess.run(arguments, capture_output=True, text=True)
    if run.returncode != 0:
        return [f"exit code {run.returncode} from: {' '.join(arguments)}", run.stdout[-2000:], run.stderr[-2000:]]
    differences = []
    for entry in filter(recorded, (train, gen)):
        side, oracle = entry["side"], os.path.join(engines, entry["folder"])
        differences += compare_oracle.compare_folders(os.path.join(dumps, side), side, oracle)
    return differences


def recorded(entry):
    return entry["folder"] is not None


def compare_family(args, engines, index):
    """Whether every layout of the family agrees with the engines."""
    failed = 0
    compared = set()
    dumps = os.path.join(args.work, "dumps", name_of(args.archive), args.family)
    for train, gen in pairs(index, args.family):
        title = " -> ".join(entry["folder"] or f"{entry['layout']} (not compared)" for entry in (train, gen))
        differences = check_pair(args, engines, train, gen, dumps)
        failed += bool(differences)
        compared.update(entry["folder"] for entry in filter(recorded, (train, gen)))
        print(f"{title}: {'FAILED' if differences else 'equal'}", flush=True)
        for line in differences[:SHOWN]:
            print(f"  {line}")
        if len(differences) > SHOWN:
            print(f"  ... {len(differences)} differences in all")
    skipped = {entry["folder"] for entry in index if entry["checkpoint"] == args.family} - compared
    print(f"{len(compared)} layouts compared{', skipped: ' if skipped else ''}{' '.join(sorted(skipped))}")
    return not failed and not skipped


def complete(families, index, wanted):
    """Whether the runs of these families compare every layout of theirs in the archive, and as many as are wanted."""
    runs = [pair for family in families for pair in pairs(index, family)]
    compared = {(entry["side"], entry["folder"]) for pair in runs for entry in filter(recorded, pair)}
    counts = {side: sum(found == side for found, _ in compared) for side in wanted}
    skipped = {(entry["side"], entry["folder"]) for entry in index} - compared
    print(f"layouts compared: {counts}, wanted: {wanted}; in the archive beside them: {sorted(skipped)}")
    return counts == wanted and not any(folder.split("/")[1] in families for _, folder in skipped)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--archive", "--work"):
        parser.add_argument(name, required=True)
    for name in ("--refit", "--family"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--complete", nargs="+")
    args = parser.parse_args()
    engines = unpack(args.archive, args.work)
    index = read_index(engines)
    if args.complete:
        good = complete(args.complete, index, LAYOUTS[name_of(args.archive)])
    else:
        good = compare_family(args, engines, index)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
