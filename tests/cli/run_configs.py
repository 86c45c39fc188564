"""Configs as people bring them: each is accepted with the right total, or refused in words that lead on.

    run_configs.py --refit EXE --configs configs.json       with expectations: CI's
    run_configs.py --refit EXE --archive configs.tar.xz     a table of any config.json files, and what must hold of all
                              [--totals totals.json]        an accepted one has this number of parameters

Totals are those that the models' publishers state, or those of transformers' own models (without layers of multi-token
prediction, and with a tied head once).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

TOTAL = re.compile(r"^(?:total|without multi-token prediction|without lm_head.weight): +[\d,]+ tensors, ([\d,]+) parameters", re.M)
INTERNAL = ("internal error", "terminate called", "Segmentation")


def inspect(refit, folder, family):
    command = [refit, "inspect", folder] + (["--family", family] if family else [])
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)


def keys_of(value):
    """All keys of a document, however deep."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys_of(inner) for inner in value.values()))


def mistakes_of(ended, config):
    """What must hold of every config.json."""
    found = []
    if ended.returncode not in (0, 2):
        found.append(f"exit code {ended.returncode}")
    found += [f"says '{words}'" for words in INTERNAL if words in ended.stderr]
    if ended.returncode == 0 and not TOTAL.search(ended.stdout):
        found.append("no total")
    if ended.returncode == 2:
        if "config.json" not in ended.stderr:
            found.append("does not name the file")
        missing = set(re.findall(r"config\.json: (\S+) is missing", ended.stderr))
        found += [f"says that {key} is missing, which is there" for key in sorted(missing & keys_of(config))]
    return found


def unexpected(ended, expected):
    """What is not as this config's row says."""
    if "if_accepted" in expected:
        total = TOTAL.search(ended.stdout)
        if not total:
            return []
        parameters = int(total[1].replace(",", ""))
        allowed = expected["if_accepted"]
        right = parameters in (allowed if isinstance(allowed, list) else [allowed])
        return [] if right else [f"{parameters} parameters, transformers' model has {allowed}"]
    if "refused" in expected:
        if ended.returncode != 2:
            return [f"is not refused: exit code {ended.returncode}"]
        return [f"does not say '{part}'" for part in expected["refused"] if part not in ended.stderr]
    if ended.returncode != 0:
        return [f"is refused: {ended.stderr.strip()}"]
    total = TOTAL.search(ended.stdout)
    parameters = int(total[1].replace(",", "")) if total else 0
    found = [] if parameters == expected["parameters"] else [f"{parameters} parameters, not {expected['parameters']}"]
    if expected.get("says", "") not in ended.stdout:
        found.append(f"does not say '{expected['says']}'")
    notes = [line for line in ended.stdout.splitlines() if line.startswith("note: ")]
    if "note" not in expected and notes:
        found.append(f"an unexpected {notes[0]}")
    if "note" in expected and not any(expected["note"] in note for note in notes):
        found.append(f"no note says '{expected['note']}'")
    return found


def read_totals(path):
    """What a row of the archive is to be, by the name of its folder."""
    if not path:
        return {}
    with open(path, encoding="utf-8") as file:
        return {name: {"if_accepted": parameters} for name, parameters in json.load(file).items()}


def rows(args):
    """(name, config, expectations or None)"""
    if args.configs:
        with open(args.configs, encoding="utf-8") as file:
            for name, row in json.load(file).items():
                yield name, row["config"], row
    if args.archive:
        totals = read_totals(args.totals)
        with tarfile.open(args.archive) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith("config.json"):
                    name = os.path.dirname(member.name)
                    yield name, json.load(archive.extractfile(member)), totals.get(os.path.basename(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--refit", required=True)
    parser.add_argument("--configs")
    parser.add_argument("--archive")
    parser.add_argument("--totals")
    args = parser.parse_args()
    counts = {"accepted": 0, "refused": 0, "wrong": 0}
    for name, config, expected in rows(args):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file)
            ended = inspect(args.refit, folder, (expected or {}).get("family"))
        found = mistakes_of(ended, config) + (unexpected(ended, expected) if expected else [])
        outcome = "wrong" if found else "accepted" if ended.returncode == 0 else "refused"
        counts[outcome] += 1
        if args.archive:
            total = TOTAL.search(ended.stdout)
            print(f"{name:32} {outcome:9} {total[1] if total else ended.stderr.strip()}")
        for mistake in found:
            print(f"{name}: {mistake}")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["wrong"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
