#!/usr/bin/env python3
"""Writes the parts of docs/ that follow from the program and its inputs, between `<!-- generated: NAME -->` and `<!-- end -->`.

    scripts/pages.py [--refit build/cpu/bin/refit] [--check]

keys, models: of `refit list NAME --json`. bugs: of inputs/bugs/. weight_sync: of results/weight_sync.toml. --check changes nothing, and ends with 1 where a page is
not what it would write.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tomllib

from published_sync import weight_sync

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTIONS = {
    "model": "The model, or its checkpoint",
    "adapters": "LoRA adapters",
    "m2n": "NCCL M2N's benchmark cases",
    "train": "The trainer and its layout",
    "gen": "The engine and its layout",
    "refit": "What moves, and how",
    "run": "The run",
    "output": "Outputs",
    "expect": "How the run has to end",
}
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ").strip()


def code(text):
    return f"`{text}`" if text else ""


def table(heading, rows):
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def listed(refit, what):
    return json.loads(subprocess.run([refit, "list", what, "--json"], check=True, capture_output=True, text=True).stdout)


def keys(refit):
    """A table for each section of a case; keys of no section come first."""
    sections = {}
    for key in listed(refit, "keys"):
        section = key["key"].split(".")[0] if "." in key["key"] else ""
        row = [code(key["key"]), code(key["option"]), cell(key["values"]), code(key["default"]), cell(key["description"])]
        sections.setdefault(section, []).append(row)
    text = ""
    for section, rows in sections.items():
        title = f"\n### [{section}] {SECTIONS[section]}\n" if section else ""
        text += f"{title}\n" + table(["key", "option", "values", "default", "what it is"], rows)
    return text + "\n"


def models(refit):
    rows = [
        [code(m["model"]), code(m["family"]), f"{m['tensors']:,}", f"{m['parameters']:,}", str(m["MTP"]), m["train TP"], m["gen TP"]]
        for m in listed(refit, "models")
        if not m["model"].endswith("-small")
    ]
    return "\n" + table(["model", "family", "tensors", "parameters", "MTP layers", "train TP", "gen TP"], rows) + "\n"


def bugs(_):
    """A section for each bug, and a table in front of them."""
    found = []
    for path in (ROOT / "inputs" / "bugs").glob("*.toml"):
        with path.open("rb") as file:
            bug = tomllib.load(file)["bug"]
        number, letter = re.fullmatch(r"B(\d+)(\w*)", bug["id"]).groups()
        found.append((int(number), letter, path.stem, bug))
    found.sort(key=lambda one: one[:2])
    rows = [[f"[{bug['id']}](#{name.lower()})", cell(bug["title"]), bug["kind"]] for _, _, name, bug in found]
    text = "\n" + table(["", "bug", "leads to"], rows)
    for _, _, name, bug in found:
        text += f"\n## {name}\n\n**{cell(bug['title'])}.**\n\n"
        text += f"- Symptom: {cell(bug['symptom'])}\n- Cause: {cell(bug['cause'])}\n- Reference: {cell(bug['reference'])}\n"
    return text + "\n"


MAKERS = {"keys": keys, "models": models, "bugs": bugs, "weight_sync": weight_sync}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refit", default=str(ROOT / "build" / "cpu" / "bin" / "refit"), help="the program that lists")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where a page is out of date")
    arguments = parser.parse_args()
    stale, seen = [], set()
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")

        def made(match):
            seen.add(match[2])
            return match[1] + MAKERS[match[2]](arguments.refit) + match[3]

        wanted = BLOCK.sub(made, text)
        if wanted != text:
            stale.append(page.relative_to(ROOT))
            if not arguments.check:
                page.write_text(wanted, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'is out of date: run scripts/pages.py' if arguments.check else 'written'}")
    missing = MAKERS.keys() - seen
    if missing:
        print(f"no page has a part named {', '.join(sorted(missing))}")
    sys.exit(1 if missing or (arguments.check and stale) else 0)


if __name__ == "__main__":
    main()
