#!/usr/bin/env python3
"""Measures what deltas send, and how long they take: fractions of changed elements x forms, beside refits that send everything.

    scripts/delta_table.py --executable build/cpu/bin/refit --out /tmp/deltas
    scripts/delta_table.py --executable build/cuda/bin/refit --out /tmp/deltas --options '--device cuda --model qwen3-8b'

Every cell is a `refit run` under mpirun, one after the other on the same machine, with its result as JSON in --out; every
refit is verified, or the last one with --verify last. Writes table.md and table.json there. Times are the median and the least of
the measured refits' bulk path; ratios are of least times, to `off` of the same fraction. Cells that fail say why and are no figure;
ends with 1 then.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys

FRACTIONS = (0, 0.001, 0.01, 0.025, 0.1, 0.3, 0.6, 1)
FORMS = ("off", "index", "bitmap", "auto")
MODEL = "--model qwen3-0.6b --layers 8"
PHASES = ("count", "exchange", "encode", "wire", "decode", "keep")


def measure(arguments, fraction, form):
    """The result, or why there is none."""
    file = arguments.out / f"{form}-{fraction}.json"
    file.unlink(missing_ok=True)
    delta = [] if form == "off" else ["--delta", form]
    command = [
        *shlex.split(arguments.mpirun), "-np", str(arguments.ranks), arguments.executable, "run", *shlex.split(arguments.options),
        "--train", arguments.train, "--gen", arguments.gen, "--executor", "p2p", *delta, "--set", f"run.update=sparse:{fraction}",
        "--set", f"run.verify={arguments.verify}", "--steps", str(arguments.steps), "--warmup", "2", "--json", str(file),
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
    except subprocess.TimeoutExpired:
        return f"no end after {arguments.timeout} s"
    if not file.exists():
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if "refit: error" in line]
        return lines[0] if lines else f"exit code {ended.returncode}"
    result = json.loads(file.read_text())
    if ended.returncode != 0 or result["status"] != "passed":
        return result.get("error", {}).get("message", result["status"])
    return result


def cell_of(result, fraction, form):
    """A row of the table, but for the ratio of its time."""
    phases = result["phases"]
    dense = result["wire"]["bytes"]
    found = result.get("delta", {})
    cell = {"fraction": fraction, "form": form, "bytes": found.get("bytes", dense), "dense_bytes": found.get("dense_bytes", dense)}
    cell["seconds"], cell["least_seconds"] = phases["bulk"]["median"], phases["bulk"]["min"]
    if found:
        cell["changed_fraction"] = found["changed_fraction"]
        cell["kept_bytes_max"] = found["kept_bytes_max"]
        cell["phases"] = {name: phases[f"bulk.{name}"]["min"] for name in PHASES}
    return cell


def text_of(cells, header):
    lines = [header, "", "| changed | form | MB on the wire | of everything | bulk | least | of `off` | " + " | ".join(PHASES) + " |"]
    lines.append("|---" * (7 + len(PHASES)) + "|")
    for cell in cells:
        start = f"| {100 * cell['fraction']:g} % | {cell['form']} |"
        if "error" in cell:
            lines.append(f"{start} {cell['error']} |" + " |" * (4 + len(PHASES)))
            continue
        share = cell["bytes"] / cell["dense_bytes"] if cell["dense_bytes"] else 0
        ratio = f"{cell['ratio']:.2f}" if "ratio" in cell else ""
        phases = [f"{1e3 * cell['phases'][name]:.2f}" if "phases" in cell else "" for name in PHASES]
        times = [f"{1e3 * cell[key]:.2f}" for key in ("seconds", "least_seconds")]
        figures = [f"{cell['bytes'] / 1e6:.3f}", f"{share:.4f}", *times, ratio]
        lines.append(f"{start} {' | '.join(figures + phases)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of the results; made where there is none")
    parser.add_argument("--options", default=MODEL, help=f"of refit run: model, device, precision (default: {MODEL})")
    parser.add_argument("--train", default="TP1", help="layout (default: TP1)")
    parser.add_argument("--gen", default="TP1", help="layout (default: TP1)")
    parser.add_argument("--ranks", type=int, default=2, help="of both sides together (default: 2)")
    parser.add_argument("--steps", type=int, default=5, help="measured refits, behind two others (default: 5)")
    parser.add_argument("--verify", default="every", choices=("every", "last"))
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    launcher = "mpirun --allow-run-as-root --oversubscribe --bind-to none"
    parser.add_argument("--mpirun", default=launcher, help=f"the launcher and its options (default: {launcher})")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of a run (default: 600)")
    arguments = parser.parse_args()
    arguments.executable = arguments.executable.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cells, failed, device = [], False, ""
    for fraction in arguments.fractions:
        fraction = int(fraction) if fraction in (0, 1) else fraction
        dense = None
        for form in arguments.forms:
            result = measure(arguments, fraction, form)
            if isinstance(result, str):
                failed = True
                cells.append({"fraction": fraction, "form": form, "error": result})
                print(f"{form} {fraction}: {result}", file=sys.stderr)
                continue
            device = result["environment"]["ranks"][0]["device"]
            cell = cell_of(result, fraction, form)
            dense = cell["least_seconds"] if form == "off" else dense
            if dense:
                cell["ratio"] = cell["least_seconds"] / dense
            cells.append(cell)
            print(f"{form} {fraction}: {cell['bytes'] / 1e6:.3f} MB, {1e3 * cell['seconds']:.2f} ms", file=sys.stderr)
    header = f"`{arguments.options}`, {arguments.train} -> {arguments.gen}, p2p, {arguments.steps} refits, {device}. Times in ms, of the"
    header += " slowest rank; parts are least times, too."
    (arguments.out / "table.md").write_text(text_of(cells, header))
    document = {"options": arguments.options, "train": arguments.train, "gen": arguments.gen, "cells": cells}
    (arguments.out / "table.json").write_text(json.dumps(document, indent=2) + "\n")
    print((arguments.out / "table.md").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
