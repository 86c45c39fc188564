#!/usr/bin/env python3
"""Measures refits over NVLink between two GPUs of one host: kernels, copy engines, both, and the other executors beside them.

    scripts/link_table.py --executable build/cuda/bin/refit --out /tmp/links
    scripts/link_table.py --executable build/cuda/bin/refit --out /tmp/links --only 'qwen3-0.6b*'

Every row is a `refit run` under mpirun, one after the other on the same machine, with its result as JSON in --out; beside
them torch's gather and packed broadcast of the same tensors (scripts/torch_refit.py), where torch is installed. Writes
table.md and efficiency.svg, too. Rows that fail say why and are no figure; ends with 1 then,
unless it was m2n's, which not every build has.
"""

import argparse
import fnmatch
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

# The GPUs as each of four ranks sees them: ranks 0 and 1 take their first one, 2 and 3 their second, which are 0, 1, 0, 1.
TRAIN_AND_GEN_ON_EACH = ["0,1", "1,0", "1,0", "0,1"]
TORCH = ("qwen3-8b", "qwen3-0.6b")  # models of torch's rows
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #333; }
.bar { fill: #0072b2; }
.bound { stroke: #e69f00; stroke-width: 2; }
</style>
<rect width="100%" height="100%" fill="#fff"/>
"""


def mechanisms(model, steps):
    for mechanism in ("kernel", "copy_engine", "auto"):
        yield f"{model}-direct-{mechanism}", model, "TP1", "TP1", ["--executor", "direct", "--mechanism", mechanism], steps, None


def rows():
    """(name, model, train, gen, options, steps, GPUs of the ranks)."""
    for model, steps, executors in (
        ("qwen3-8b", 10, ("p2p", "golden", "m2n")),
        ("qwen3-0.6b", 20, ("p2p", "golden", "m2n")),
        ("gpt-oss-20b", 5, ("p2p",)),
        ("qwen3-30b-a3b", 5, ("p2p",)),
    ):
        yield from mechanisms(model, steps)
        for executor in executors:
            yield f"{model}-{executor}", model, "TP1", "TP1", ["--executor", executor], steps, None
    for precision in ("bf16:fp8", "bf16:mxfp8"):
        name = f"qwen3-8b-{precision.replace(':', '-')}"
        yield name, "qwen3-8b", "TP1", "TP1", ["--executor", "direct", "--precision", precision], 10, None
    for train, gen in (("TP2", "DP2"), ("PP2", "TP2"), ("DP2", "TP2")):
        for mechanism in ("kernel", "auto"):
            options = ["--executor", "direct", "--mechanism", mechanism]
            yield f"qwen3-8b-{train}-{gen}-both-ways-{mechanism}".lower(), "qwen3-8b", train, gen, options, 10, TRAIN_AND_GEN_ON_EACH


def command_of(arguments, row, file):
    _, model, train, gen, options, steps, gpus = row
    run = [arguments.executable, "run", "--device", "cuda", "--model", model, "--train", train, "--gen", gen]
    run += ["--steps", str(steps), "--warmup", "2", "--set", "run.verify=last", *options, "--json", str(file), "--force"]
    mpirun = [*shlex.split(arguments.mpirun), "--oversubscribe", "--bind-to", "none"]
    if gpus is None:
        return [*mpirun, "-np", "2", *run]
    words = mpirun
    for number, seen in enumerate(gpus):
        words += [":"] * (number > 0) + ["-np", "1", "-x", f"CUDA_VISIBLE_DEVICES={seen}", *run]
    return words


def measure(arguments, row):
    """Returns the result, or why there is none."""
    kept, file = arguments.out / f"{row[0]}.json", arguments.out / f"{row[0]}.part.json"
    file.unlink(missing_ok=True)
    try:
        ended = subprocess.run(command_of(arguments, row, file), capture_output=True, text=True, timeout=arguments.timeout)
    except subprocess.TimeoutExpired:
        return f"no end after {arguments.timeout} s"
    if not file.exists():  # mpirun or refit ended before there was a result
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip(" -")]
        return next((line for line in lines if "refit: error" in line), lines[0] if lines else f"exit code {ended.returncode}")
    result = json.loads(file.read_text())
    file.replace(kept)
    if ended.returncode != 0 or result["status"] != "passed":
        return result.get("error", {}).get("message", result["status"])
    return result


def torch_row(arguments, model):
    """Returns the seconds of torch's refits of a model, or why there are none."""
    script = pathlib.Path(__file__).with_name("torch_refit.py")
    listed = subprocess.run([arguments.executable, "inspect", model], capture_output=True, text=True)
    if listed.returncode != 0:
        return listed.stderr.strip()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as tensors:
        tensors.write(listed.stdout)
        tensors.flush()
        words = [arguments.python, str(script), tensors.name, "--train-ranks", "1", "--gen-ranks", "1"]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, timeout=arguments.timeout)
        except subprocess.TimeoutExpired:
            return f"no end after {arguments.timeout} s"
    documents = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode != 0 or not documents:
        return (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    found = json.loads(documents[-1])
    (arguments.out / f"{model}-torch.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def milliseconds(seconds):
    return f"{1000 * seconds:.3f}" if seconds < 0.01 else f"{1000 * seconds:.2f}"


def cells(name, result):
    if isinstance(result, str):
        return [name, "", result, "", "", "", "", ""]
    sync, statistics = result["weight_sync"], result.get("host_seconds", {})
    return [
        name,
        f"{result['wire']['bytes'] / 1e9:.2f}",
        milliseconds(sync["median"]),
        milliseconds(sync["first"]),
        milliseconds(result["bound"]["seconds"]),
        f"{result['efficiency']:.3f}",
        f"{1000 * statistics['median']:.2f}" if "median" in statistics else "",
        f"{result['memory']['staging_bytes_max'] / 1e6:.0f}",
    ]


def table(results):
    head = ["row", "GB", "median ms", "first ms", "bound ms", "of the bound", "host ms", "staging MB"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cells(name, result)) for name, result in results]
    return "".join(f"| {line} |\n" for line in lines)


def picture(results):
    """The part of its bound that each row reaches, as SVG."""
    names, bars, row = 250, 330, 20
    right, height = names + bars, 34 + row * len(results)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" viewBox="0 0 760 {height}" role="img" aria-label="efficiency">', STYLE]
    parts.append(f'<text x="{right}" y="16" text-anchor="middle">bound</text>')
    for number, (name, result) in enumerate(results):
        y = 26 + row * number
        words = f"{milliseconds(result['weight_sync']['median'])} ms, {result['efficiency']:.2f}"
        parts.append(f'<text x="{names - 8}" y="{y + 12}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{names}" y="{y}" width="{bars * result["efficiency"]:.1f}" height="14" class="bar"/>')
        parts.append(f'<text x="{right + 12}" y="{y + 12}">{words}</text>')
    parts.append(f'<line x1="{right}" y1="22" x2="{right}" y2="{height - 4}" class="bound"/>\n</svg>')
    return "\n".join(parts) + "\n"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", default="build/cuda/bin/refit", help="refit, built with preset cuda")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for results, table and plot")
    parser.add_argument("--only", default="*", help="rows, as a glob")
    parser.add_argument("--mpirun", default="mpirun", help='the launcher and its options; as root: "mpirun --allow-run-as-root"')
    parser.add_argument("--python", default=sys.executable, help="one that has torch, for its rows")
    parser.add_argument("--timeout", type=float, default=120, help="seconds of a row")
    arguments = parser.parse_args()
    if shutil.which(arguments.executable) is None:
        parser.error(f"--executable {arguments.executable}: no such program; build it with preset cuda")
    if not any(fnmatch.fnmatch(name, arguments.only) for name in [row[0] for row in rows()] + [f"{m}-torch" for m in TORCH]):
        parser.error(f"--only {arguments.only}: there is no such row")
    return arguments


def main():
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, failed = [], False
    for row in rows():
        if not fnmatch.fnmatch(row[0], arguments.only):
            continue
        result = measure(arguments, row)
        failed |= isinstance(result, str) and not row[0].endswith("-m2n")
        results.append((row[0], result))
        print(" ".join(cells(row[0], result)), flush=True)
    for model in TORCH:
        if not fnmatch.fnmatch(f"{model}-torch", arguments.only):
            continue
        found = torch_row(arguments, model)
        words = found if isinstance(found, str) else f"{milliseconds(found['seconds']['median'])} ms"
        print(f"{model}-torch {words}", flush=True)
    (arguments.out / "table.md").write_text(table(results))
    measured = [(name, result) for name, result in results if not isinstance(result, str)]
    if measured:
        (arguments.out / "efficiency.svg").write_text(picture(measured))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
