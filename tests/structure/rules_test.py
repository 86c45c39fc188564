"""Rules that refusals name by number, such as [V18], are explained on the page that the refusals point to, and no others.

rules_test.py ROOT
"""

import glob
import os
import re
import sys


def named(root):
    """The numbers in the sources' messages."""
    numbers = set()
    for path in glob.glob(os.path.join(root, "lib", "**", "*.cpp"), recursive=True):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for inside in re.findall(r"\[([VL]\d+(?:, [VL]\d+)*)\]", text):
            numbers.update(inside.split(", "))
        numbers.update(re.findall(r'"([VL]\d+)"', text))  # put into brackets by what makes the message
    return numbers


def explained(root):
    with open(os.path.join(root, "docs", "layouts.md"), encoding="utf-8") as file:
        return set(re.findall(r"^\| ([VL]\d+) \|", file.read(), re.MULTILINE))


def main(root):
    in_messages, on_page = named(root), explained(root)
    problems = [f"docs/layouts.md: {number} is not explained" for number in sorted(in_messages - on_page)]
    problems += [f"docs/layouts.md: {number} is in no message" for number in sorted(on_page - in_messages)]
    print("\n".join(problems) if problems else f"{len(in_messages)} rules are explained")
    return 1 if problems or not in_messages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
