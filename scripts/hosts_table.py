#!/usr/bin/env python3
"""Measures refits between hosts: layouts x rates of the hosts' links x executors, each beside its bound and its model.

    scripts/hosts_table.py --executable build/cpu/bin/refit --out /tmp/hosts --launcher 'mpirun --host {hosts} --map-by {map} -np {ranks}'
    scripts/hosts_table.py ... --rates 200mbit 1gbit --shape './shape.sh {rate}' --only '*-p2p'

Every row is a `refit run`, one after the other, with its result as JSON in --out. --launcher starts it: {hosts} becomes the hosts
with their slots as Open MPI's --host takes them (h1:3,h2:3), {map} `slot` or `node`, {ranks} the number of ranks. Before the rows of a
rate --shape is run, where it is given, with {rate} in it: what sets the links, as `tc qdisc ... tbf rate` does; without it the
rate is a name alone. Writes table.md and table.json. Bytes between hosts are the run's own count of one refit. Rows that fail say why
and are no figure; ends with 1 then.
"""

import argparse
import fnmatch
import json
import pathlib
import shlex
import subprocess
import sys

# name: train, gen, slots of each host, mapping, further options. Train's ranks come first: by slot they fill the first hosts.
LAYOUTS = {
    "tp3-tp3": ("TP3", "TP3", (3, 3), "slot", []),
    "tp1-dp2-far": ("TP1", "DP2", (1, 2), "slot", []),
    "tp1-dp2-one-near": ("TP1", "DP2", (2, 1), "slot", []),
    "tp1-dp3-far": ("TP1", "DP3", (1, 3), "slot", []),
    "dp2-dp2-apart": ("DP2", "DP2", (2, 2), "slot", []),
    "dp2-dp2-near": ("DP2", "DP2", (2, 2), "node", []),
    "pp2-dp2-mixed": ("PP2", "DP2", (2, 2), "node", []),
    "pp3-tp3-three-hosts": ("PP3", "TP3", (2, 2, 2), "slot", []),
    "tp1-dp2-three-hosts": ("TP1", "DP2", (1, 1, 1), "slot", []),
    "tp3-dp3-colocated": ("TP3", "DP3", (2, 1), "slot", ["--colocated"]),
}
# name: options; those of direct without fan-out and with what is chosen.
EXECUTORS = {
    "direct": ["--executor", "direct"],
    "direct-alone": ["--executor", "direct", "--fan-out", "off"],
    "p2p": ["--executor", "p2p"],
    "golden": ["--executor", "golden"],
    "p2p-ffn": ["--executor", "p2p", "--bulk", "ffn"],
}
HEAD = ["layout", "hosts", "rate", "executor", "fan-out", "MB", "MB between hosts", "weight_sync ms", "first ms", "bound ms",
        "model ms", "bound / weight_sync", "weight_sync / model"]  # fmt: skip


def command_of(arguments, layout, executor, file):
    train, gen, slots, mapping, options = LAYOUTS[layout]
    names = [f"{arguments.host}{number + 1}" for number in range(len(slots))]
    words = {"{hosts}": ",".join(f"{name}:{count}" for name, count in zip(names, slots)), "{map}": mapping, "{ranks}": str(sum(slots))}
    launcher = arguments.launcher
    for word, value in words.items():
        launcher = launcher.replace(word, value)
    run = [str(arguments.executable), "run", *shlex.split(arguments.options), "--train", train, "--gen", gen, *options]
    run += [*EXECUTORS[executor], "--steps", str(arguments.steps), "--warmup", "1", "--set", "run.verify=last", "--force"]
    return [*shlex.split(launcher), *run, "--json", str(file)]


def measure(arguments, layout, executor, file):
    """The result, or why there is none."""
    file.unlink(missing_ok=True)
    command = command_of(arguments, layout, executor, file)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
    except subprocess.TimeoutExpired:
        return f"no end after {arguments.timeout} s"
    if not file.exists():
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip(" -")]
        return next((line for line in lines if "refit: error" in line), lines[0] if lines else f"exit code {ended.returncode}")
    result = json.loads(file.read_text())
    if ended.returncode != 0 or result["status"] != "passed":
        return result.get("error", {}).get("message", result["status"]).splitlines()[0]
    return result


def row_of(layout, rate, executor, result):
    row = {"layout": layout, "hosts": list(LAYOUTS[layout][2]), "rate": rate, "executor": executor}
    if isinstance(result, str):
        return {**row, "error": result}
    wire, sync = result["wire"], result["weight_sync"]
    # What was chosen: without fan-out nothing is forwarded.
    row["fan_out"] = "on" if wire["forwarded_bytes"] > 0 else "off"
    row["bytes"], row["between_hosts_bytes"] = wire["bytes"], wire["between_hosts_bytes"]
    row["weight_sync"], row["first"] = sync["median"], sync["first"]
    row["bound"], row["model"] = result["bound"]["seconds"], result["model_seconds"]["total"]
    return row


def cells(row):
    start = [row["layout"], "+".join(map(str, row["hosts"])), row["rate"], row["executor"]]
    if "error" in row:
        return [*start, "", row["error"], *[""] * (len(HEAD) - 6)]
    megabytes = [f"{row[key] / 1e6:.1f}" for key in ("bytes", "between_hosts_bytes")]
    times = [f"{1e3 * row[key]:.2f}" for key in ("weight_sync", "first", "bound", "model")]
    ratios = [f"{row['bound'] / row['weight_sync']:.3f}", f"{row['weight_sync'] / row['model']:.3f}"]
    return [*start, row["fan_out"], *megabytes, *times, *ratios]


def table(rows):
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True, type=pathlib.Path, help="refit, as every host sees it")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of the results, as every host sees it")
    parser.add_argument("--launcher", required=True, help="what starts the ranks: {hosts}, {map} and {ranks} are replaced")
    parser.add_argument("--host", default="h", help="hosts are this and a number from 1 on (default: h)")
    parser.add_argument("--rates", nargs="+", default=["as-is"], help="of the links, for --shape and the table")
    parser.add_argument("--shape", default="", help="command that sets the links to {rate}")
    parser.add_argument("--options", default="--model smollm2-135m-small", help="of refit run (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="measured refits, behind another one (default: 3)")
    parser.add_argument("--only", default="*", help="rows LAYOUT-EXECUTOR, as a glob")
    parser.add_argument("--timeout", type=float, default=300, help="seconds of a row (default: 300)")
    arguments = parser.parse_args()
    arguments.executable, arguments.out = arguments.executable.resolve(), arguments.out.resolve()
    if not any(fnmatch.fnmatch(f"{layout}-{executor}", arguments.only) for layout in LAYOUTS for executor in EXECUTORS):
        parser.error(f"--only {arguments.only}: there is no such row")
    return arguments


def main():
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for rate in arguments.rates:
        if arguments.shape:
            subprocess.run(shlex.split(arguments.shape.replace("{rate}", rate)), check=True)
        for layout in LAYOUTS:
            for executor in EXECUTORS:
                if not fnmatch.fnmatch(f"{layout}-{executor}", arguments.only):
                    continue
                file = arguments.out / f"{rate}-{layout}-{executor}.json"
                rows.append(row_of(layout, rate, executor, measure(arguments, layout, executor, file)))
                print(" ".join(cells(rows[-1])), file=sys.stderr, flush=True)
                (arguments.out / "table.md").write_text(table(rows))
                (arguments.out / "table.json").write_text(json.dumps({"options": arguments.options, "rows": rows}, indent=2) + "\n")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
