"""Executors x policies for one pair of layouts per family: right data, consistent numbers, the same gen weights.

    run_families.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER --family FAMILY
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import check_result  # noqa: E402

# checkpoint: train layout, gen layout, ranks. One for every way in which values travel; run_rows.py has all families.
PAIRS = {
    "fsdp": ("HSDP2xFSDP2xEP2", "TP2", 6),  # experts stacked and transposed, and sharded by rows
    "llama_tied": ("TP2xPP2", "TP2", 6),
    "qwen2_bias": ("PP2", "TP2", 4),
    "qwen3": ("TP2xCP2", "DP2", 6),
    "qwen3_moe": ("EP2xPP2xDP2", "TP2xEP2", 6),
    "gpt_oss": ("TP2xEP2", "TP2xEP2", 4),  # experts transposed and interleaved
    "nemotron_h": ("TP2xEP2", "TP2", 4),  # -exp(A_log) on gen
    "qwen3_next": ("TP2xEP2", "TP2", 4),  # norms less 1 in train
}
FSDP = ("--set", "train.trainer=fsdp", "--set", "train.recipe=automodel")


def compare_dumps(suite, first, other):
    ended = suite.run(0, "compare", first, other)
    suite.check_code(ended, 0, f"compare {first} {other}")


def all_ways(suite):
    family = suite.rest[suite.rest.index("--family") + 1]
    train, gen, ranks = PAIRS[family]
    checkpoint = suite.checkpoint("qwen3_moe" if family == "fsdp" else family)
    trainer = FSDP if family == "fsdp" else ()
    totals = set()
    fingerprints = set()
    dumps = []
    for policy in ("all", "whitelist", "ffn"):
        for executor in ("golden", "p2p", "direct"):
            where = f"{family}-{policy}-{executor}"
            ended = suite.run(
                ranks, "run", "--checkpoint", checkpoint, "--train", train, "--gen", gen, "--precision", "fp32",
                *trainer, "--bulk", policy, "--executor", executor, "--steps", 2, "--warmup", 0, "--force",
                "--json", f"{where}.json", "--dump-gen", where,
            )  # fmt: skip
            if not suite.check_code(ended, 0, where):
                continue
            result = suite.result(f"{where}.json", ended)
            check_result(suite, ended, result, policy, where, refits=2)
            totals.add(result["payload"]["total_bytes"])
            fingerprints.add(result["verification"]["fingerprint_gen"])
            dumps.append(where)
    for other in dumps[1:]:
        compare_dumps(suite, dumps[0], other)
    suite.check(len(totals) == 1 and len(fingerprints) == 1, f"payloads {totals}, fingerprints {fingerprints}")


Suite(__doc__).main(all_ways)
