"""scripts/published_table.py against the committed results/published.md, and what must be true of its rows.

    published_table_test.py --refit EXE --root REPOSITORY
"""

import argparse
import difflib
import os
import subprocess
import sys


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(text):
    """Dictionaries by column."""
    found, header = [], None
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        if line.startswith("| model "):
            header = cells(line)
        else:
            found.append(dict(zip(header, cells(line))))
    return found


def check(table):
    """The published runs that the model must explain, and bounds that no model is below."""
    found = []
    for row in table:
        named = f"{row['model']} {row['train -> gen']} {row['executor, in flight']}"
        bound, model = float(row["bound"]), float(row["seconds"])
        if not 0 < bound <= model:
            found.append(f"{named}: model {model} is below the bound {bound}")
        must = row["model"] in ("DeepSeek-V3", "Qwen3-235B", "Qwen3-30B-A3B")
        if must and "golden" in row["executor, in flight"] and not float(row["factor"]) <= 2:
            found.append(f"{named}: factor {row['factor']} from what was published")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--root"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    script = os.path.join(args.root, "scripts", "published_table.py")
    command = [sys.executable, script, "--refit", args.refit, "--inputs", os.path.join(args.root, "inputs")]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        return 1
    with open(os.path.join(args.root, "results", "published.md"), encoding="utf-8") as file:
        committed = file.read()
    found = list(
        difflib.unified_diff(
            committed.splitlines(), ended.stdout.splitlines(), "results/published.md", "computed", lineterm="", n=0
        )
    )
    table = rows(ended.stdout)
    if len(table) < 25:
        found.append(f"{len(table)} rows")
    found += check(table)
    print("\n".join(found) if found else f"{len(table)} rows as committed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
