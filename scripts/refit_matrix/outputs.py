"""The results of a matrix as JSON (schema `refit.matrix` version 1), JUnit XML, CSV, HDF5, and what GitHub's CI shows."""

import csv
import io
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict

from .runner import store, tail, whole, write

CSV_COLUMNS = (
    "case", "status", "reason", "baseline", "baseline_change", "ranks", "seconds", "model", "executor", "bulk", "train", "gen",
    "train_precision", "gen_precision", "steps", "weight_sync_min", "weight_sync_median", "weight_sync_max", "bound_seconds", "efficiency",
    "payload_bytes", "bulk_fraction", "wire_bytes", "train_bytes_max", "gen_bytes_max", "staging_bytes_max", "elements",
    "elements_wrong", "kl_max", "kl_mean", "trainer", "engine", "self_bytes",
)  # fmt: skip
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def counts(outcomes):
    """{status: number}, and how many are worse than the baseline."""
    result = {status: 0 for status in ("passed", "failed", "error", "timeout", "waived")}
    for outcome in outcomes:
        result[outcome.status] += 1
    for verdict in ("slower", "worse"):
        result[verdict] = sum(outcome.baseline.get("verdict") == verdict for outcome in outcomes)
    return result


def write_json(file, matrix, info, outcomes):
    store(file, {
        "schema": "refit.matrix", "schema_version": 1, "name": matrix.name, "description": matrix.description,
        "file": matrix.file, **info, "planned": len(matrix.cases), "counts": counts(outcomes),
        "cases": [asdict(outcome) for outcome in outcomes],
    })  # fmt: skip


def write_junit(file, matrix, info, outcomes, cases_folder):
    """One test suite, one test case per case. Waived cases are skipped, cases worse than the baseline are failures. What failed
    has the end of its log and the wrong tensors."""
    found = counts(outcomes)
    numbers = {
        "tests": len(outcomes), "failures": found["failed"] + found["worse"], "errors": found["error"] + found["timeout"],
        "skipped": found["waived"], "time": f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    }  # fmt: skip
    numbers = {key: str(value) for key, value in numbers.items()}
    suites = ET.Element("testsuites", numbers)
    suite = ET.SubElement(
        suites, "testsuite", {"name": f"refit.{matrix.name}", "timestamp": info["start_time"], **numbers}
    )
    for outcome in outcomes:
        test = ET.SubElement(suite, "testcase", {
            "classname": f"refit.{matrix.name}", "name": outcome.name, "time": f"{outcome.seconds:.3f}"
        })  # fmt: skip
        if outcome.layout:
            properties = ET.SubElement(test, "properties")
            ET.SubElement(properties, "property", {"name": "layout", "value": _xml(outcome.layout)})
        kind, message = _junit_verdict(outcome)
        if kind == "skipped":
            ET.SubElement(test, kind, {"message": _xml(message)})
        elif kind:
            ET.SubElement(test, kind, {"message": _xml(message)}).text = _xml(_evidence(outcome, cases_folder))
        ET.SubElement(test, "system-out").text = _xml(f"{outcome.command}\nexit code {outcome.exit_code}\n")
    ET.indent(suites)
    write(file, ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n")


def wrong_tensors(outcome, most=20):
    """A line for each wrong tensor of a gen rank."""
    wrong = outcome.result.get("verification", {}).get("wrong", [])
    lines = [
        f"gen rank {each['gen_rank']}: {each['tensor']}: {each['elements_wrong']} elements wrong, first at {each['first_index']}"
        for each in wrong[:most]
    ]
    return lines + ([f"and {len(wrong) - most} more"] if len(wrong) > most else [])


def _evidence(outcome, cases_folder):
    log = os.path.join(cases_folder, outcome.name, "log.txt")
    wrong = wrong_tensors(outcome)
    tensors = "\nwrong tensors:\n" + "\n".join(wrong) + "\n" if wrong else ""
    return f"{outcome.title}\n{outcome.command}\n{tensors}\nthe end of {log}:\n{tail(log)}\n"


def failure_words(outcome):
    """Why a case is not good, on one line; empty for one that is."""
    if outcome.baseline.get("verdict") == "worse":
        return "worse than the baseline: " + "; ".join(outcome.baseline["differences"])
    return "" if outcome.good else f"{outcome.status}: {outcome.reason}"


def annotations(outcomes):
    """Lines by which GitHub's CI shows failures (::error::) and what is slower (::warning::) beside a change."""
    lines = []
    for outcome in outcomes:
        words = failure_words(outcome)
        if words:
            lines.append(f"::error title={_escaped(outcome.name, True)}::{_escaped(f'{outcome.title}: {words}')}")
        elif outcome.baseline.get("verdict") == "slower":
            said = "; ".join(outcome.baseline["differences"])
            lines.append(f"::warning title={_escaped(outcome.name, True)}::{_escaped(f'{outcome.title}: {said}')}")
    return lines


def _escaped(text, is_property=False):
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *((":", "%3A"), (",", "%2C")) * is_property):
        text = text.replace(character, code)
    return text


def append_step_summary(file, matrix, outcomes):
    """Markdown for $GITHUB_STEP_SUMMARY: the counts, and a row per case, those that failed first."""
    found = ", ".join(f"{number} {status}" for status, number in counts(outcomes).items() if number) or "none finished"
    rows = ["| case | runs | verdict | weight_sync | baseline | why |", "|---|---|---|---|---|---|"]
    for outcome in sorted(outcomes, key=lambda each: each.good):
        sync = f"{1000 * outcome.result['weight_sync']['median']:.1f} ms" if outcome.measured else ""
        change = outcome.baseline.get("change")
        compared = outcome.baseline.get("verdict", "") + (f", x {change:.2f}" if change else "")
        why = failure_words(outcome) or outcome.reason
        cells = (outcome.name, outcome.layout, outcome.status, sync, compared, why)
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(f"## refit matrix: {matrix.name}\n\n{len(outcomes)} of {len(matrix.cases)} cases: {found}\n\n")
        stream.write("\n".join(rows) + "\n\n")


def _cell(text):
    """On one line, and without what Markdown takes for the end of a cell or for HTML."""
    words = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return words if len(words) <= 200 else f"{words[:197]}..."


def _junit_verdict(outcome):
    kinds = {"passed": "", "waived": "skipped", "failed": "failure", "error": "error", "timeout": "error"}
    worse = outcome.baseline.get("verdict") == "worse"
    return ("failure" if worse else kinds[outcome.status]), failure_words(outcome) or f"{outcome.status}: {outcome.reason}"


def _xml(text):
    return NOT_XML.sub("?", text)


def write_csv(file, outcomes):
    """One row per case; columns that a case did not come to are empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(outcome) for outcome in outcomes)
    write(file, stream.getvalue())


def _row(outcome):
    def at(*path):
        value = outcome.result
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        return "" if value == {} else value

    first = (
        outcome.name,
        outcome.status,
        outcome.reason,
        outcome.baseline.get("verdict", ""),
        "" if outcome.baseline.get("change") is None else outcome.baseline["change"],
        outcome.ranks,
        outcome.seconds,
    )
    paths = (
        ("model", "family"), ("settings", "executor"), ("settings", "bulk"), ("train", "layout"), ("gen", "layout"), ("train", "precision"),
        ("gen", "precision"), ("settings", "steps"), ("weight_sync", "min"), ("weight_sync", "median"), ("weight_sync", "max"),
        ("bound", "seconds"), ("efficiency",), ("payload", "total_bytes"), ("payload", "bulk_fraction"), ("wire", "bytes"),
        ("memory", "train_bytes_max"), ("memory", "gen_bytes_max"), ("memory", "staging_bytes_max"),
        ("verification", "elements"), ("verification", "elements_wrong"), ("verification", "kl", "max"),
        ("verification", "kl", "mean"), ("train", "trainer"), ("gen", "engine"), ("wire", "self_bytes"),
    )  # fmt: skip
    return dict(zip(CSV_COLUMNS, (*first, *(at(*path) for path in paths)), strict=True))


def write_hdf5(file, folders):
    """One file with a group per case, copied from the cases' own files. False: there is no h5py here to do it with."""
    try:
        import h5py
    except ImportError:
        return False
    with whole(file) as temporary, h5py.File(temporary, "w") as document:
        for name, folder in folders.items():
            source = os.path.join(folder, "result.h5")
            if os.path.exists(source):
                with h5py.File(source, "r") as one:
                    one.copy(one["/"], document, name=name)
    return True
