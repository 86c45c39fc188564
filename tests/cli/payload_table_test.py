"""scripts/payload_table.py against the published payloads, literally, and against the committed results/payload.md.

    payload_table_test.py --refit EXE --root REPOSITORY
"""

import argparse
import difflib
import os
import subprocess
import sys


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def differences(name, expected, found):
    return list(difflib.unified_diff(expected.splitlines(), found.splitlines(), name, "computed", lineterm="", n=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--refit", "--root"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    script = os.path.join(args.root, "scripts", "payload_table.py")
    command = [sys.executable, script, "--refit", args.refit, "--inputs", os.path.join(args.root, "inputs")]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        return 1
    rows = "\n".join([line for line in ended.stdout.splitlines() if line.startswith("|")][2:])
    found = differences("payload_table.md", read(args.root, "tests", "data", "payload_table.md"), rows)
    found += differences("results/payload.md", read(args.root, "results", "payload.md"), ended.stdout)
    print("\n".join(found) if found else "as published")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
