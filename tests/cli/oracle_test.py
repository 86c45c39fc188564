"""Runs refit on a family's tiny checkpoint and compares both groups' dumps with what the real engines held.

The i-th train layout is paired with the i-th gen layout, the shorter list repeating, so that every layout occurs.

    oracle_test.py --refit EXE --engines engines.tar.xz --work FOLDER --family FAMILY
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import compare_oracle  # noqa: E402
from launcher import mpirun  # noqa: E402

SHOWN = 20  # differences printed per run


def unpack(archive, work):
    """The unpacked archive; unpacked once per build folder, also when several tests start at once."""
    folder = os.path.join(work, "engines")
    stamp = os.path.join(work, "engines.stamp")
    wanted = f"{os.path.getsize(archive)} {os.path.getmtime(archive)}"
    os.makedirs(work, exist_ok=True)
    with open(os.path.join(work, "engines.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(stamp) or open(stamp, encoding="utf-8").read() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(work)
            with open(stamp, "w", encoding="utf-8") as file:
                file.write(wanted)
    return folder


def pairs(index, family):
    """(train entry, gen entry), each layout at least once."""
    train, gen = ([e for e in index if e["checkpoint"] == family and e["side"] == side] for side in ("train", "gen"))
    if not train or not gen:
        sys.exit(f"error: the archive has no train or no gen layout of '{family}'")
    return [(train[i % len(train)], gen[i % len(gen)]) for i in range(max(len(train), len(gen)))]


def setting(key, value):
    text = value if isinstance(value, str) else json.dumps(value)
    return ["--set", f"{key}={text}"]


def command(refit, engines, train, gen, dumps):
    result = [*mpirun(train["ranks"] + gen["ranks"]), refit, "run"]
    result += ["--checkpoint", os.path.join(engines, "ckpt", train["checkpoint"])]
    result += ["--train", train["layout"], "--gen", gen["layout"], "--precision", "fp32", "--set", "run.update=none"]
    result += ["--steps", "1", "--warmup", "0", "--force"]
    result += ["--dump-train", os.path.join(dumps, "train"), "--dump-gen", os.path.join(dumps, "gen")]
    for entry in (train, gen):
        for key, value in entry["settings"].items():
            result += setting(key, value)
    return result


def check_pair(refit, engines, train, gen, dumps):
    """The differences of one run from both engines; [] means that everything agrees."""
    shutil.rmtree(dumps, ignore_errors=True)
    os.makedirs(dumps)
    arguments = command(refit, engines, train, gen, dumps)
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        return [f"exit code {run.returncode} from: {' '.join(arguments)}", run.stdout[-2000:], run.stderr[-2000:]]
    differences = []
    for side, entry in (("train", train), ("gen", gen)):
        differences += compare_oracle.compare_folders(
            os.path.join(dumps, side), side, os.path.join(engines, entry["folder"])
        )
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--engines", "--work", "--family"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    engines = unpack(args.engines, args.work)
    with open(os.path.join(engines, "index.json"), encoding="utf-8") as file:
        index = json.load(file)
    failed = 0
    for train, gen in pairs(index, args.family):
        title = f"{os.path.basename(train['folder'])} -> {os.path.basename(gen['folder'])}"
        dumps = os.path.join(args.work, "dumps", args.family)
        differences = check_pair(args.refit, engines, train, gen, dumps)
        failed += bool(differences)
        print(f"{args.family} {title}: {'FAILED' if differences else 'equal'}", flush=True)
        for line in differences[:SHOWN]:
            print(f"  {line}")
        if len(differences) > SHOWN:
            print(f"  ... {len(differences)} differences in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
