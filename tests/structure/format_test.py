"""Fails when a C++ file is not formatted as .clang-format says; exits with 77 (skipped) without clang-format 14.

    format_test.py ROOT
"""

import os
import shutil
import subprocess
import sys

VERSION = "version 14."
FOLDERS = ("lib", "kernels", "app", "tests")


def find_tool():
    """clang-format 14, under either of its names; other versions format differently."""
    for name in ("clang-format-14", "clang-format"):
        path = shutil.which(name)
        if path and VERSION in subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout:
            return path
    return None


def sources(root):
    for folder in FOLDERS:
        for base, _, names in os.walk(os.path.join(root, folder)):
            yield from (os.path.join(base, name) for name in sorted(names) if name.endswith((".cpp", ".hpp", ".cu")))


def main(root):
    tool = find_tool()
    if tool is None:
        print("skipped: clang-format 14 is not installed (apt-get install clang-format-14)")
        return 77
    files = list(sources(root))
    result = subprocess.run([tool, "--dry-run", "--Werror", "--ferror-limit=1", *files], capture_output=True, text=True)
    wrong = sorted({line.split(":")[0] for line in result.stderr.splitlines() if "error:" in line})
    if result.returncode != 0:
        print("\n".join(wrong) if wrong else result.stderr)
        print(f"not formatted: run {os.path.basename(tool)} -i on the {len(wrong)} files above")
        return 1
    print(f"{len(files)} files are formatted")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
