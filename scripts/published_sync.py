#!/usr/bin/env python3
"""Prints, as Markdown, published times of weight synchronisation beside refit's own: GB/s per GPU, and the bound where the
rate of the links is published.

    scripts/published_sync.py [--refit build/cpu/bin/refit]

Reads results/weight_sync.toml, which says where each number is from; what can be computed is computed here, with `refit plan`.
scripts/pages.py writes the same into docs/benchmark.md.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "results" / "weight_sync.toml"
GB = 1e9


@dataclass(frozen=True)
class Figure:
    """What a row's columns are made of. `least`: gigabytes, and what follows from them, are a lower limit."""

    row: dict
    gigabytes: float  # into the receiving GPU that gets most
    seconds: tuple  # shortest, longest
    bound: float | None  # seconds; None where the rate of the links is not published
    least: bool = False

    def rates(self):
        """GB/s of a receiving GPU, lowest first."""
        return sorted(self.gigabytes / seconds for seconds in set(self.seconds))

    def parts(self):
        """Bound / seconds, lowest first."""
        return sorted(self.bound / seconds for seconds in set(self.seconds))


def planned(refit, row):
    """`refit plan`'s document for a row's `plan`."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "plan.json")
        command = [refit, "plan", "--inputs", str(ROOT / "inputs"), *row["plan"], "--json", file]
        if "hardware" in row:
            command += ["--hardware", row["hardware"]]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0:
            sys.exit(f"error: {row['system']}: exit code {ended.returncode} from {' '.join(command)}\n{ended.stderr}")
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)


def checked_ranks(row, document):
    """The published GPU counts must be those of the plan; one without senders has a train side that stands in."""
    for side, key in (("train", "senders"), ("gen", "receivers")):
        if row[key] != document[side]["ranks"] and row[key] != 0 and not row.get("one_copy"):
            sys.exit(f"error: {row['system']}, {row['model']}: {key} {row[key]}, but the plan has {document[side]['ranks']}")


def figure(refit, row):
    if "results" in row:
        with open(ROOT / "results" / row["results"], encoding="utf-8") as stream:
            result = json.load(stream)
        row = {"senders": result["train"]["ranks"], "receivers": result["gen"]["ranks"], **row}
        row["layout"] = f"{result['train']['layout']} -> {result['gen']['layout']}"
        median = result["weight_sync"]["median"]
        return Figure(row, result["bound"]["bytes"]["ingress"] / GB, (median, median), result["bound"]["seconds"])
    seconds = (row["seconds"][0], row["seconds"][-1])
    bound = None
    if "gigabytes_per_gpu" in row:
        gigabytes = row["gigabytes_per_gpu"]
    else:
        document = planned(refit, row)
        checked_ranks(row, document)
        gigabytes = document["bound"]["bytes"]["ingress"] / GB
        if row.get("one_copy"):
            gigabytes = document["payload"]["total_bytes"] / GB / row["receivers"]
        bound = document["bound"].get("seconds")
    if "link" in row:
        bound = gigabytes / row["link"]
    return Figure(row, gigabytes, seconds, bound, row.get("one_copy", False))


def figures(refit):
    with open(SOURCE, "rb") as file:
        return [figure(refit, row) for row in tomllib.load(file)["row"]]


def digits(value, count):
    """`count` significant digits, without an exponent."""
    return f"{value:#.{count}g}".rstrip(".") if value < 10**count else f"{value:.0f}"


def span(values, form):
    return " to ".join(dict.fromkeys(form(value) for value in values))


def cells(one):
    """A row of the table; figures that were published have the digits that they were published with."""
    row, published = one.row, "source" in one.row
    least = ">= " if one.least else ""
    link = row["source"] if published else f"../results/{row['results']}"
    gpus = f"{row['senders']} + {row['receivers']}" if row["senders"] else f"{row['receivers']}"
    machine = f"{gpus} {row['machine']}" + (f", {row['network']}" if "network" in row else "")
    places = max(len(f"{value:g}".partition(".")[2]) for value in one.seconds)
    seconds = span(one.seconds, f"{{:.{places}f}}".format) if published else digits(one.seconds[0], 3)
    rates = span(one.rates(), lambda rate: digits(rate, 2 if published else 3))
    line = [f"[{row['system']}]({link})", f"{row['model']}: {row['layout']}", machine]
    line += [least + digits(one.gigabytes, 3), seconds, least + rates]
    if one.bound is not None:
        line += [least + digits(one.bound, 3), least + span(one.parts(), "{:.2f}".format)]
    return [*line, row["contains"]]


def table(heading, rows):
    return "".join(f"| {' | '.join(line)} |\n" for line in [heading, ["---"] * len(heading), *rows])


def weight_sync(refit):
    """Both tables: rows whose bound is known, and those that have GB/s alone."""
    rows = figures(refit)
    start, end = ["system", "what, train -> gen", "train + gen GPUs", "GB a GPU", "seconds", "GB/s a GPU"], ["what else the time has"]
    known = table([*start, "bound, s", "part of it", *end], [cells(one) for one in rows if one.bound is not None])
    unknown = table([*start, *end], [cells(one) for one in rows if one.bound is None])
    return (
        f"\n**The links are known**: compare the part of the bound.\n\n{known}"
        f"\n**The rate of the links is not published**: there is no bound, and GB/s say little across machines.\n\n{unknown}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refit", default=str(ROOT / "build" / "cpu" / "bin" / "refit"), help="the program that plans")
    print(weight_sync(parser.parse_args().refit), end="")


if __name__ == "__main__":
    main()
