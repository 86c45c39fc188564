#!/usr/bin/env python3
"""Measures what gen's pause costs: refits in place, layer by layer, and staged, with room for all layers and for half of them.

    scripts/commit_table.py --executable build/cpu/bin/refit --out /tmp/commits
    scripts/commit_table.py --executable build/cuda/bin/refit --out /tmp/commits --options '--device cuda --model qwen3-8b'

Every row is a `refit run` under mpirun, one after the other on the same machine, with its result as JSON in --out, where
table.md is written, too. Every refit is proved, except with --verify last; staged ones before the flip. Times are medians of the measured refits; the ratio is that of a row's time to the first row's of
its executor. Ends with 1 where a run fails.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys

EXECUTORS = ("direct", "p2p")
HEAD = "| executor | commit | in all ms | ratio | pause ms | before it ms | second place GB |\n|---|---|---|---|---|---|---|\n"


def measure(arguments, executor, commit, room):
    """The result of one run."""
    file = arguments.out / f"{executor}-{commit}{'-half' if room else ''}.json"
    file.unlink(missing_ok=True)
    command = [
        *shlex.split(arguments.mpirun), "-np", str(arguments.ranks), arguments.executable, "run", *shlex.split(arguments.options),
        "--train", arguments.train, "--gen", arguments.gen, "--executor", executor, "--commit", commit, "--warmup", "2",
        "--steps", str(arguments.steps), "--set", f"run.verify={arguments.verify}", "--json", str(file),
        *(["--set", f"refit.stage_bytes={room}"] if room else []),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if ended.returncode != 0 or not file.exists():
        sys.exit(f"{shlex.join(command)}: exit code {ended.returncode}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return json.loads(file.read_text())


def row_of(executor, commit, result, first):
    def milliseconds(name):
        return f"{result['phases'][name]['median'] * 1e3:.4g}" if name in result["phases"] else ""

    total = result["weight_sync"]["median"] * 1e3
    pause = milliseconds("pause") or f"{total:.4g}"
    staged = result["memory"]["staged_bytes_max"] / 1e9
    return (
        f"| {executor} | {commit} | {total:.4g} | {total / first:.3f} | {pause} | {milliseconds('background')} "
        f"| {f'{staged:.2f}' if staged else ''} |\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder for results and table.md")
    parser.add_argument("--options", default="--model qwen3-0.6b --layers 8", help="of refit run")
    parser.add_argument("--train", default="TP1")
    parser.add_argument("--gen", default="TP1")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--verify", default="every", choices=("every", "last"))
    parser.add_argument("--mpirun", default="mpirun")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = HEAD
    for executor in EXECUTORS:
        plain = measure(arguments, executor, "in_place", None)
        first = plain["weight_sync"]["median"] * 1e3
        text += row_of(executor, "in_place", plain, first)
        text += row_of(executor, "layers", measure(arguments, executor, "layers", None), first)
        staged = measure(arguments, executor, "stage", None)
        text += row_of(executor, "stage", staged, first)
        half = staged["memory"]["staged_bytes_max"] // 2
        text += row_of(executor, "stage, half", measure(arguments, executor, "stage", half), first)
    (arguments.out / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
