"""The results of a matrix as JSON (schema `refit.matrix` version 1), JUnit XML, CSV and HDF5."""

import csv
import io
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict

from .runner import store, whole, write

CSV_COLUMNS = (
    "case", "status", "reason", "baseline", "ranks", "seconds", "executor", "bulk", "train", "gen", "train_precision",
    "gen_precision", "steps", "weight_sync_min", "weight_sync_median", "weight_sync_max", "bound_seconds", "efficiency",
    "payload_bytes", "bulk_fraction", "wire_bytes", "train_bytes_max", "gen_bytes_max", "staging_bytes_max", "elements",
    "elements_wrong", "kl_max", "kl_mean",
)  # fmt: skip
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def counts(outcomes):
    """{status: number}, and how many are worse than the baseline."""
    result = {status: 0 for status in ("passed", "failed", "error", "timeout", "waived")}
    for outcome in outcomes:
        result[outcome.status] += 1
    result["worse"] = sum(outcome.baseline.get("verdict") == "worse" for outcome in outcomes)
    return result


def write_json(file, matrix, info, outcomes):
    store(file, {
        "schema": "refit.matrix", "schema_version": 1, "name": matrix.name, "description": matrix.description,
        "file": matrix.file, **info, "planned": len(matrix.cases), "counts": counts(outcomes),
        "cases": [asdict(outcome) for outcome in outcomes],
    })  # fmt: skip


def write_junit(file, matrix, info, outcomes):
    """One test suite, one test case per case. Waived cases are skipped, cases worse than the baseline are failures."""
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
        kind, message = _junit_verdict(outcome)
        if kind:
            ET.SubElement(test, kind, {"message": _xml(message)}).text = _xml(outcome.command)
        ET.SubElement(test, "system-out").text = _xml(f"{outcome.command}\nexit code {outcome.exit_code}\n")
    ET.indent(suites)
    write(file, ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n")


def _junit_verdict(outcome):
    if outcome.baseline.get("verdict") == "worse":
        return "failure", "worse than the baseline: " + "; ".join(outcome.baseline["differences"])
    kinds = {"passed": "", "waived": "skipped", "failed": "failure", "error": "error", "timeout": "error"}
    return kinds[outcome.status], f"{outcome.status}: {outcome.reason}"


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
        outcome.ranks,
        outcome.seconds,
    )
    paths = (
        ("settings", "executor"), ("settings", "bulk"), ("train", "layout"), ("gen", "layout"), ("train", "precision"),
        ("gen", "precision"), ("settings", "steps"), ("weight_sync", "min"), ("weight_sync", "median"), ("weight_sync", "max"),
        ("bound", "seconds"), ("efficiency",), ("payload", "total_bytes"), ("payload", "bulk_fraction"), ("wire", "bytes"),
        ("memory", "train_bytes_max"), ("memory", "gen_bytes_max"), ("memory", "staging_bytes_max"),
        ("verification", "elements"), ("verification", "elements_wrong"), ("verification", "kl", "max"),
        ("verification", "kl", "mean"),
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
