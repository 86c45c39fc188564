"""docs/output.md has every column and key of what refit and scripts/matrix.py write, and nothing that no source writes.

    run_documented.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import dataclasses
import fnmatch
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

SMALL = ("--model", "qwen3-4b-small", "--layers", 1)
SOURCES = ("lib/report", "lib/diagnose", "lib/digest", "app", "lib/engine", "scripts/refit_matrix")


def root_of(suite):
    return os.path.dirname(suite.args.inputs)


def sections(suite):
    """{heading: words in the first column of its tables}"""
    found, heading = {}, ""
    with open(os.path.join(root_of(suite), "docs", "output.md"), encoding="utf-8") as file:
        for line in file:
            if line.startswith("## "):
                heading = line[3:].strip()
            if line.startswith("| `"):
                found.setdefault(heading, []).extend(re.findall(r"`([^`]+)`", line.split(" | ")[0]))
    return found


def paths(value, prefix=""):
    """"a.b[].c" of every leaf of a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from paths(inner, f"{prefix}[]")
    elif not isinstance(value, list):
        yield prefix


def check_documented(suite, names, documented, what):
    patterns = [word.replace("[]", "[[][]]") for word in documented]
    missing = sorted(name for name in set(names) if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    suite.check(not missing, f"docs/output.md has no {', '.join(missing)} of {what}")


def keys_of_documents(suite):
    """Runs, a run that fails, plans, a diagnosis, a digest, an inspection and a probe."""
    documented = sections(suite)["JSON"]
    dumps = ("--dump-gen", "gen", "--dump-train", "train")
    layouts = ("--train", "TP1", "--gen", "TP1", "--steps", 2, "--warmup", 0)
    suite.run(2, "run", *SMALL, *layouts, "--inject", "swap-gate-up", "--json", "run.json", *dumps, "--force")
    suite.run(0, "plan", *SMALL, *layouts[:4], "--hardware", "h100-50gbps", "--json", "plan.json", "--force")
    suite.run(0, "diagnose", "--gen-dump", "gen", "--train-dump", "train", "--json", "diagnosis.json", "--force")
    suite.run(0, "synth", *SMALL[1:], "small", "--force")
    suite.run(0, "digest", "small", "--gen", "TP1", "--from-dump", "gen", "--json", "digest.json", "--force")
    suite.run(0, "inspect", "qwen3-0.6b-small", "--json", "inspect.json", "--force")
    suite.run(2, "probe", "--bytes", "256KiB", "--sizes", "4KiB", "--seconds", 0.002, "--json", "probe.json", "--force")
    suite.run(3, "run", *SMALL, "--train", "TP1", "--gen", "TP1+TP1", "--steps", 3, "--json", "drill.json", "--force",
              "--drill", "kill engine 0 after refit 1; restart engine 1 after refit 2")  # fmt: skip
    for name in ("run", "plan", "diagnosis", "digest", "inspect", "probe", "drill"):
        found = list(paths(suite.result(f"{name}.json")))
        suite.check(len(found) > 10, f"{name}.json has {len(found)} keys")
        check_documented(suite, found, documented, f"{name}.json")


def columns(suite):
    """Of both CSV files, and of the terminal's table."""
    documented = sections(suite)
    ended = suite.run(2, "run", *SMALL, "--train", "TP1", "--gen", "TP1", "--steps", 1, "--csv", "run.csv", "--force")
    with open(suite.path("run.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    suite.check(rows and rows[0]["executor"] == "direct" and rows[0]["train_ranks"] == "1", f"{rows}", ended)
    check_documented(suite, rows[0], documented["CSV"], "a run's CSV")
    sys.path.insert(0, os.path.join(root_of(suite), "scripts"))
    from refit_matrix import baseline, matrix_file, outputs, runner

    check_documented(suite, outputs.CSV_COLUMNS, documented["CSV"], "matrix.csv")
    outcome = runner.Outcome("a", "a.toml", ["--steps"])
    outcome.baseline = baseline.compare({"cases": {}}, outcome)
    matrix = matrix_file.Matrix("m", "", "m.toml", 1.0, ())
    outputs.write_json(suite.path("matrix.json"), matrix, dict.fromkeys(("command", "start_time", "host", "cores", "baseline")), [outcome])
    fields = [f"cases[].{field.name}" for field in dataclasses.fields(outcome) if field.name not in ("options", "baseline")]
    check_documented(suite, [*paths(suite.result("matrix.json")), *fields], documented["JSON"], "matrix.json")
    heading = next(line for line in ended.out.splitlines() if line.startswith("# refit weight_sync"))
    check_documented(suite, re.split(r"\s{2,}| (?=weight_sync)", heading[2:].strip()), documented["Terminal"], "the terminal")
    wide = [line for line in ended.out.splitlines() if len(line) > 80 and not line.startswith(("[xferd-payload]", "# refit 0")) and "/" not in line]
    suite.check(not wide, f"wider than 80 columns: {wide}", ended)
    suite.check(re.search(r"^# elapsed +\d", ended.out, re.M) and "p99" in ended.out, "no elapsed time or p99", ended)
    suite.check("\x1b" not in ended.out + ended.err, "colour on no terminal", ended)


def sweeps(suite):
    """A sweep's document, CSV and table."""
    documented = sections(suite)
    ended = suite.run(2, "run", *SMALL, "--train", "TP1", "--gen", "TP1", "--steps", 1, "--sweep", "executor=p2p,direct",
                      "--json", "sweep.json", "--csv", "sweep.csv", "--force")  # fmt: skip
    check_documented(suite, paths(suite.result("sweep.json", ended)), documented["JSON"], "sweep.json")
    with open(suite.path("sweep.csv"), newline="", encoding="utf-8") as file:
        check_documented(suite, csv.DictReader(file).fieldnames, documented["CSV"], "a sweep's CSV")
    heading = next(line for line in ended.out.splitlines() if line.startswith("# executor"))
    check_documented(suite, re.split(r"\s{2,}| (?=efficiency)", heading.strip())[1:], documented["Terminal"], "a sweep's table")


def nothing_else(suite):
    """The last word of every documented key stands in a source that writes results."""
    text = ""
    for folder in SOURCES:
        for base, _, files in os.walk(os.path.join(root_of(suite), folder)):
            for name in files:
                if name.endswith((".cpp", ".py", ".hpp")):
                    with open(os.path.join(base, name), encoding="utf-8") as file:
                        text += file.read()
    for heading, words in sections(suite).items():
        for word in words:
            last = re.sub(r"[\[\]]", "", word).split(".")[-1].split("/")[-1]
            known = last == "*" or last in text or last.removesuffix("_seconds") in text
            suite.check(known, f"{heading}: no source writes {word}")


Suite(__doc__).main(keys_of_documents, columns, sweeps, nothing_else)
