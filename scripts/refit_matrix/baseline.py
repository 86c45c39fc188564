"""Baselines: what every case of a matrix moved, how far it was from train's weights, and how far from its bound.

Bytes, copies, memory, stored elements and KL have to be equal. Of time, the ratio of the least weight_sync to the bound that was
measured in the same run is kept. Where it grew by more than `warn` the case is `slower`, by more than `fail` it is `worse`, which
fails the matrix. Both stand in the file, once for the machine on which it was made (its processor, cores and GPUs), and once for
any other machine and for cases with more ranks than cores, whose times differ by 5 from run to run:

    "machine": "Intel(R) Xeon(R) ..., 2 cores",
    "limits": {"same machine": {"warn": 1.3, "fail": 1.8}, "otherwise": {"warn": 3.0, "fail": 10.0}}
"""

import os
import platform
import re

from .runner import load, store

SCHEMA = "refit.baseline"
VERSION = 2
SAME, OTHERWISE = "same machine", "otherwise"
LIMITS = {SAME: {"warn": 1.3, "fail": 1.8}, OTHERWISE: {"warn": 3.0, "fail": 10.0}}
NOT_KIND = re.compile(r"\bcuda\d+\b|\b[0-9a-fA-F]+:[0-9a-fA-F:.]+|^[\s,]+|[\s,]+$")
DIGITS = 12  # of KL: sums of the same terms in another order


def machine(outcomes):
    """What times depend on: the processor, its cores, and the GPUs that were used."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        models = []
    devices = {rank["device"] for outcome in outcomes for rank in outcome.result.get("environment", {}).get("ranks", [])}
    gpus = sorted({NOT_KIND.sub("", device) or "GPU" for device in devices - {"cpu"}})  # without number and PCI id
    words = [models[0] if models else platform.machine(), f"{cores()} cores", *gpus]
    return ", ".join(words)


def cores():
    return len(os.sched_getaffinity(0))


def figures(outcome):
    """What a baseline keeps of a case; {} if it has not been measured."""
    if not outcome.measured:
        return {}
    result = outcome.result
    verification = result.get("verification", {})
    bound = result["bound"]["seconds"]
    return {
        "settings": {key: result["settings"][key] for key in ("steps", "warmup", "seed", "update", "verify", "device")},
        "exact": {
            "payload bulk_bytes": result["payload"]["bulk_bytes"],
            "payload misc_bytes": result["payload"]["misc_bytes"],
            "wire bytes": result["wire"]["bytes"],
            "wire copies": result["wire"]["copies"],
            "memory train_bytes_max": result["memory"]["train_bytes_max"],
            "memory gen_bytes_max": result["memory"]["gen_bytes_max"],
            "memory staging_bytes_max": result["memory"]["staging_bytes_max"],
            "elements": verification.get("elements"),
            "elements_wrong": verification.get("elements_wrong"),
            "KL max": _rounded(verification.get("kl", {}).get("max")),
            "KL mean": _rounded(verification.get("kl", {}).get("mean")),
        },
        # of the least disturbed refit, as a multiple of the bound
        "slowness": _rounded(result["weight_sync"]["min"] / bound) if bound > 0 else 0.0,
    }


def check_place(file):
    """ValueError: a baseline cannot be written there. Asked before anything runs."""
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.isdir(file) or (os.path.exists(file) and not os.path.isfile(file)):
        raise ValueError(f"--save-baseline {file}: no regular file")
    if os.path.exists(file) and load(file).get("schema") != SCHEMA:
        raise ValueError(f"--save-baseline {file}: there is another file, which is no baseline; give another name")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"--save-baseline {file}: {folder} is no folder that can be written to")


def save(file, name, outcomes, kept_cases=()):
    """Writes the baseline of all cases that passed; `kept_cases`: names that did not run now, and keep what they have."""
    old = load(file).get("cases", {})
    cases = {case: old[case] for case in kept_cases if case in old}
    cases |= {outcome.name: figures(outcome) for outcome in outcomes if outcome.status == "passed" and outcome.measured}
    store(file, {
        "schema": SCHEMA, "schema_version": VERSION, "matrix": name, "machine": machine(outcomes), "limits": LIMITS,
        "cases": cases,
    })  # fmt: skip


def read(file):
    """The document of a baseline file. ValueError: it is none, with what is wrong."""
    document = load(file)
    if document.get("schema") != SCHEMA or document.get("schema_version") != VERSION:
        raise ValueError(f"{file}: no baseline (schema {SCHEMA} version {VERSION}); --save-baseline writes one")
    for which in (SAME, OTHERWISE):
        limits = document.get("limits", {}).get(which) if isinstance(document.get("limits"), dict) else None
        numbers = [limits.get(key) for key in ("warn", "fail")] if isinstance(limits, dict) else []
        if len(numbers) != 2 or not all(isinstance(n, (int, float)) and n > 0 for n in numbers):
            raise ValueError(f"{file}: limits: {which}: numbers warn and fail above 0 are expected")
    cases = document.get("cases")
    whole = isinstance(cases, dict) and all(
        isinstance(case, dict) and isinstance(case.get("settings"), dict) and isinstance(case.get("exact"), dict)
        and isinstance(case.get("slowness"), (int, float)) for case in cases.values()
    )  # fmt: skip
    if not whole:
        raise ValueError(f"{file}: cases: each needs settings, exact and slowness; --save-baseline writes them")
    return document


def compare(document, outcome):
    """{verdict: same | slower | worse | new | other settings | -, differences: [text], change: ratio of slowness, or None}"""
    found, kept = figures(outcome), document["cases"].get(outcome.name)
    if outcome.status != "passed" or not found:
        return {"verdict": "-", "differences": [], "change": None}
    if kept is None:
        return {"verdict": "new", "differences": ["the baseline has no such case"], "change": None}
    if found["settings"] != kept["settings"]:
        differences = _unequal(found["settings"], kept["settings"])
        return {"verdict": "other settings", "differences": differences, "change": None}
    differences = _unequal(found["exact"], kept["exact"])
    verdict, change = ("worse" if differences else "same"), None
    if kept["slowness"] > 0:
        change = found["slowness"] / kept["slowness"]
        same = document.get("machine") == machine([outcome]) and outcome.ranks <= cores()
        limits = document["limits"][SAME if same else OTHERWISE]
        for limit, word in (("fail", "worse"), ("warn", "slower")):
            if change > limits[limit]:
                verdict = "worse" if differences else word
                where = SAME if same else "another machine, or more ranks than cores"
                differences.append(
                    f"least weight_sync / bound is {found['slowness']:.3g}, {change:.3g} times the baseline's "
                    f"{kept['slowness']:.3g}: {limit} above {limits[limit]:g} ({where})"
                )
                break
    return {"verdict": verdict, "differences": differences, "change": change}


def _unequal(found, kept):
    keys = [*kept, *(key for key in found if key not in kept)]
    return [f"{key} is {found.get(key)}, baseline {kept.get(key)}" for key in keys if found.get(key) != kept.get(key)]


def _rounded(value):
    return None if value is None else float(f"{value:.{DIGITS}g}")
