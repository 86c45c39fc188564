"""Baselines: what every case of a matrix moved, how far it was from train's weights, and how far from its bound.

Bytes, copies, memory, stored elements and KL have to be equal. Time depends on the machine, so only its ratio to the bound that
was measured in the same run is kept, and may grow by the file's factor `slower_at_most`.
"""

from .runner import load, store

SCHEMA = "refit.baseline"
SLOWER_AT_MOST = 10.0  # eight ranks on two cores differ by 5 from run to run; the file of a quiet machine may say less
DIGITS = 12  # of KL: sums of the same terms in another order


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


def save(file, name, outcomes):
    """Writes the baseline of all cases that passed."""
    cases = {outcome.name: figures(outcome) for outcome in outcomes if outcome.status == "passed" and outcome.measured}
    store(
        file, {"schema": SCHEMA, "schema_version": 1, "matrix": name, "slower_at_most": SLOWER_AT_MOST, "cases": cases}
    )


def read(file):
    """The document of a baseline file. ValueError: it is none."""
    document = load(file)
    if document.get("schema") != SCHEMA or document.get("schema_version") != 1:
        raise ValueError(f"{file}: no baseline (schema {SCHEMA} version 1); --save-baseline writes one")
    return document


def compare(document, outcome):
    """{verdict: same | worse | new | other settings | -, differences: [text]} of one case."""
    found, kept = figures(outcome), document["cases"].get(outcome.name)
    if outcome.status != "passed" or not found:
        return {"verdict": "-", "differences": []}
    if kept is None:
        return {"verdict": "new", "differences": ["the baseline has no such case"]}
    if found["settings"] != kept["settings"]:
        return {"verdict": "other settings", "differences": _unequal(found["settings"], kept["settings"])}
    differences = _unequal(found["exact"], kept["exact"])
    limit = kept["slowness"] * document["slower_at_most"]
    if kept["slowness"] > 0 and found["slowness"] > limit:
        differences.append(
            f"least weight_sync / bound is {found['slowness']:.3g}, baseline {kept['slowness']:.3g} "
            f"x {document['slower_at_most']:g} = {limit:.3g} at most"
        )
    return {"verdict": "worse" if differences else "same", "differences": differences}


def _unequal(found, kept):
    keys = [*kept, *(key for key in found if key not in kept)]
    return [f"{key} is {found.get(key)}, baseline {kept.get(key)}" for key in keys if found.get(key) != kept.get(key)]


def _rounded(value):
    return value if value is None else float(f"{value:.{DIGITS}g}")
