#!/usr/bin/env python3
"""Puts the results of two runs, or of two machines, side by side.

    scripts/compare.py a.json b.json
    scripts/compare.py before/matrix.json after/matrix.json --html compared.html

Takes what `refit run --json`, a sweep's --json, scripts/matrix.py (matrix.json) and `refit probe --json` write; both files must be
of one kind. Cases of sweeps and matrices are matched by their names. Needs Python 3.11 and nothing else. Exit code: 0 compared,
2 a file that cannot be, or a page or stdout that cannot be written.
"""

import argparse
import os
import sys

if sys.version_info < (3, 11):
    sys.exit("error: scripts/compare.py needs Python 3.11 or later")

from refit_compare import differences, documents, page, terminal  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("a", metavar="A.json")
    parser.add_argument("b", metavar="B.json")
    parser.add_argument("--html", metavar="FILE", help="write one page, too, with all figures and the samples drawn")
    parser.add_argument("--force", action="store_true", help="replace an existing page")
    args = parser.parse_args()
    try:
        a, b = documents.read(args.a), documents.read(args.b)
        both, only_a, only_b = match(a, b)
        if args.html:
            page.write(args.html, args.force, a, b, both, only_a, only_b)
    except documents.Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    try:
        sys.stdout.reconfigure(errors="backslashreplace")
        for line in terminal.write(a, b, both, only_a, only_b):
            print(terminal.plain(line))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # else a reader that has had enough
            print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
            return 2
    return 0


def match(a, b):
    """The pairs, and the names without a partner."""
    if a.schema != b.schema:
        kinds = " and ".join(f"{one.file} is of {documents.KINDS[one.schema]} ({one.schema})" for one in (a, b))
        raise documents.Mistake(f"{kinds}: give two files of one kind")
    both, only_a, only_b = differences.pairs(a, b)
    if not both:
        names = " and ".join(", ".join(only[:3] + ["..."] * (len(only) > 3)) for only in (only_a, only_b))
        raise documents.Mistake(f"{a.file} and {b.file} have no case in common: {names}")
    return both, only_a, only_b


if __name__ == "__main__":
    sys.exit(main())
