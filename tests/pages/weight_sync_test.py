"""results/weight_sync.toml and the tables made of it: every published number stands in the line that is quoted for it, what is
computed follows from what stands beside it, and nobody is faster than the bound.

    weight_sync_test.py --refit EXE --root REPOSITORY
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tomllib


def numbers(text):
    """All numbers of a line, without commas between thousands."""
    return {float(word) for word in re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text))}


def quoted(row):
    """Published numbers that the quoted line does not have; times may stand there in milliseconds."""
    found = numbers(row["quote"])
    missing = [value for value in row["seconds"] if not any(math.isclose(value * unit, one) for unit in (1, 1000) for one in found)]
    return missing + [value for value in (row.get("gigabytes_per_gpu", 0),) if value and value not in found]


def mistakes(row):
    """What is wrong with a row of the file."""
    if "results" in row:
        return ["published too"] if "source" in row or "seconds" in row else []
    found = [f"{value} is not in its quote" for value in quoted(row)]
    if not row["source"].startswith("https://"):
        found.append("no source")
    if ("plan" in row) == ("gigabytes_per_gpu" in row):
        found.append("the bytes are to be of a plan or of the source, one of both")
    if ("hardware" in row or "link" in row) != ("network" in row):
        found.append("a bound needs words for its links, and links without a bound none")
    return found


def span(cell):
    """(lowest, highest) of "1.2", "1.2 to 3.4" or ">= 1.2"."""
    values = [float(word) for word in cell.removeprefix(">= ").split(" to ")]
    return values[0], values[-1]


def lines(text):
    """Dictionaries by column, of all tables."""
    header = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| ") or set(line) <= set("| -"):
            continue
        if cells[0] == "system":
            header = cells
        else:
            yield dict(zip(header, cells, strict=True))


def close(one, other, digits):
    """Equal, if both were rounded to so many digits."""
    return math.isclose(one, other, rel_tol=2 * 10 ** (1 - digits))


def computed(line):
    """What does not follow from the other cells of a line."""
    gigabytes, seconds, rates = (span(line[column]) for column in ("GB a GPU", "seconds", "GB/s a GPU"))
    found = [f"GB/s {rate}" for rate, time in zip(rates, reversed(seconds), strict=True) if not close(rate, gigabytes[0] / time, 2)]
    if "bound, s" in line:
        bound, parts = span(line["bound, s"])[0], span(line["part of it"])
        found += [f"part {part}" for part, time in zip(parts, reversed(seconds), strict=True) if abs(part - bound / time) > 0.011]
        if parts[1] > 1.02:
            found.append(f"faster than the bound: {parts[1]}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--root"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    with open(os.path.join(args.root, "results", "weight_sync.toml"), "rb") as file:
        rows = tomllib.load(file)["row"]
    found = [f"{row['system']}, {row['model']}: {what}" for row in rows for what in mistakes(row)]
    command = [sys.executable, os.path.join(args.root, "scripts", "published_sync.py"), "--refit", args.refit]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    table = list(lines(printed))
    found += [f"{line['system']}, {line['what, train -> gen']}: {what}" for line in table for what in computed(line)]
    if len(table) != len(rows):
        found.append(f"{len(rows)} rows, and {len(table)} in the tables")
    print("\n".join(found) or f"{len(rows)} rows are right")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
