"""Executors x policies for one pair of layouts per family: right data, consistent numbers, the same gen weights.

    run_families.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER --family FAMILY
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

# family: train layout, gen layout, ranks
PAIRS = {
    "llama_tied": ("TP2xPP2", "TP2", 6),
    "qwen2_bias": ("PP2", "TP2", 4),
    "qwen3": ("TP2xCP2", "DP2", 6),
    "qwen3_moe": ("EP2xPP2xDP2", "TP2xEP2", 6),
}


def check_result(suite, ended, result, policy, where):
    """What every good result has in common."""
    suite.check(result["schema"] == "refit.result" and result["schema_version"] == 1, f"{where}: schema", ended)
    suite.check(result["status"] == "passed" and result["exit_code"] == 0, f"{where}: status {result['status']}", ended)
    found = result["verification"]
    for name, expected in {"refits": 2, "tensors_wrong": 0, "elements_wrong": 0, "wrong": []}.items():
        suite.check(found[name] == expected, f"{where}: verification.{name} is {found[name]}", ended)
    suite.check(found["elements"] > 0 and found["kl"]["max"] == 0, f"{where}: KL {found['kl']}", ended)
    suite.check(found["fingerprint_train"] == found["fingerprint_gen"], f"{where}: fingerprints differ", ended)
    suite.check(len(result["weight_sync"]["samples"]) == 2, f"{where}: {result['weight_sync']}", ended)
    check_payload(suite, ended, result, policy, where)


def check_payload(suite, ended, result, policy, where):
    payload, wire = result["payload"], result["wire"]
    total = payload["bulk_bytes"] + payload["misc_bytes"]
    suite.check(payload["total_bytes"] == total == result["model"]["bytes"], f"{where}: payload {payload}", ended)
    suite.check(abs(payload["bulk_fraction"] - payload["bulk_bytes"] / total) < 1e-9, f"{where}: {payload}", ended)
    suite.check((payload["misc_bytes"] == 0) == (policy == "all"), f"{where}: misc {payload}", ended)
    suite.check(payload["bulk_bytes"] > 0, f"{where}: nothing on the bulk path {payload}", ended)
    suite.check(wire["bytes"] >= total and wire["copies"] > 0, f"{where}: wire {wire}", ended)


def compare_dumps(suite, first, other):
    ended = suite.run(0, "compare", first, other)
    suite.check_code(ended, 0, f"compare {first} {other}")


def all_ways(suite):
    family = suite.rest[suite.rest.index("--family") + 1]
    train, gen, ranks = PAIRS[family]
    checkpoint = suite.checkpoint(family)
    totals = set()
    fingerprints = set()
    dumps = []
    for policy in ("all", "whitelist", "ffn"):
        for executor in ("golden", "p2p", "direct"):
            where = f"{family}-{policy}-{executor}"
            ended = suite.run(
                ranks, "run", "--checkpoint", checkpoint, "--train", train, "--gen", gen, "--precision", "fp32",
                "--bulk", policy, "--executor", executor, "--steps", 2, "--warmup", 0, "--force",
                "--json", f"{where}.json", "--dump-gen", where,
            )  # fmt: skip
            if not suite.check_code(ended, 0, where):
                continue
            result = suite.result(f"{where}.json", ended)
            check_result(suite, ended, result, policy, where)
            totals.add(result["payload"]["total_bytes"])
            fingerprints.add(result["verification"]["fingerprint_gen"])
            dumps.append(where)
    for other in dumps[1:]:
        compare_dumps(suite, dumps[0], other)
    suite.check(len(totals) == 1 and len(fingerprints) == 1, f"payloads {totals}, fingerprints {fingerprints}")


Suite(__doc__).main(all_ways)
