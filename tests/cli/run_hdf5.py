"""A checkpoint converted to HDF5 in several shards, and back: the same train and gen weights from each.

    run_hdf5.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import LIMIT_SECONDS, Suite  # noqa: E402


def convert(suite, source, target):
    ended = suite.run(0, "convert", source, target, "--max-shard-size", "200KB", "--force")
    suite.check_code(ended, 0, f"convert {source} {target}")


def same_weights(suite):
    for family, train, gen, ranks in (("qwen3_moe", "EP2xDP2", "TP2", 4), ("llama_tied", "TP2", "TP2", 4)):
        source = suite.checkpoint(family)
        hdf5, back = suite.path(f"{family}-hdf5"), suite.path(f"{family}-safetensors")
        for folder in (hdf5, back):
            shutil.rmtree(folder, ignore_errors=True)
        convert(suite, source, hdf5)
        convert(suite, hdf5, back)
        shards = sorted(glob.glob(os.path.join(hdf5, "*.h5")))
        suite.check(len(shards) > 1, f"{family}: shards {shards}")
        with open(os.path.join(hdf5, "model.h5.index.json"), encoding="utf-8") as file:
            listed = set(json.load(file)["weight_map"].values())
        suite.check(listed == {os.path.basename(shard) for shard in shards}, f"{family}: index {listed}")
        for a, b in ((source, hdf5), (source, back)):
            suite.check_code(suite.run(0, "compare", a, b), 0, f"compare {a} {b}")
        for name, folder in (("safetensors", source), ("hdf5", hdf5)):
            ended = suite.run(
                ranks, "run", "--checkpoint", folder, "--train", train, "--gen", gen, "--steps", 2, "--warmup", 0,
                "--force", "--precision", "fp32", "--dump-train", f"{family}-train-{name}",
                "--dump-gen", f"{family}-gen-{name}",
            )  # fmt: skip
            suite.check_code(ended, 0, f"{family} from {name}")
        for side in ("train", "gen"):
            ended = suite.run(0, "compare", f"{family}-{side}-safetensors", f"{family}-{side}-hdf5")
            suite.check_code(ended, 0, f"{family}: {side} dumps")
        read_by_h5dump(suite, shards[0])


def read_by_h5dump(suite, file):
    tool = shutil.which("h5dump")
    if tool is None:
        return
    dump = subprocess.run([tool, "-H", file], capture_output=True, text=True, timeout=LIMIT_SECONDS)
    suite.check(dump.returncode == 0 and 'DATASET "model.' in dump.stdout, f"h5dump -H {file}: {dump.stderr}")


Suite(__doc__).main(same_weights)
