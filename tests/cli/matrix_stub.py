#!/usr/bin/env python3
"""Stands in for refit in the test of scripts/matrix.py: how it ends is what its case file says.

The case file's first word: pass, fail, wait (for a minute, with children that wait too), lack, mistake or crash; the second:
the number of ranks; the third, if any, multiplies bytes, the fourth time. $STUB_LOG gets one line per `run`, and the
processes that a waiting one began. With $STUB_HANGS even --help waits.
"""

import json
import os
import subprocess
import sys
import time

CODES = {"pass": 0, "fail": 1, "lack": 77, "mistake": 2, "crash": 139}


def document(bytes_factor, factor, code, ranks):
    sync = {
        "first": 0.02,
        "samples": [0.01 * factor],
        "min": 0.01 * factor,
        "median": 0.01 * factor,
        "max": 0.01 * factor,
    }
    result = {
        "schema": "refit.result", "case": {"name": "x", "description": "<b> & ü"}, "environment": {"refit": "stub"},
        "status": "passed" if code == 0 else "failed", "train": {"layout": "TP1", "ranks": 1, "precision": "bf16"},
        "gen": {"layout": "TP1", "ranks": ranks - 1, "precision": "bf16"},
        "settings": {"executor": "p2p", "bulk": "all", "steps": 1, "warmup": 1, "seed": 1, "update": "perturb", "verify": "every",
                     "device": "cpu"},
        "payload": {"bulk_bytes": int(100 * bytes_factor), "misc_bytes": 0, "total_bytes": int(100 * bytes_factor), "bulk_fraction": 1.0},
        "wire": {"bytes": 100, "copies": 1}, "bound": {"seconds": 0.002, "term": "memory"}, "efficiency": 0.2 / factor,
        "memory": {"train_bytes_max": 1, "gen_bytes_max": 1, "staging_bytes_max": 0}, "weight_sync": sync,
        "phases": {"load": {"median": 0.1}, "bulk": {"median": 0.01}},
        "verification": {"refits": 2, "elements": 50, "elements_wrong": 0, "wrong": [], "kl": {"max": 0.0, "mean": 0.0}},
        "model": {"family": "stub"},
    }  # fmt: skip
    if code != 0:
        result["error"] = {"kind": "data", "message": "5 elements are wrong"}
        wrong = {"tensor": "lm_head.weight", "gen_rank": 1, "elements_wrong": 5, "first_index": [3, 4]}
        result["verification"]["wrong"] = [wrong]
    return result


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if "--help" in arguments:
        if "STUB_HANGS" in os.environ:
            time.sleep(60)
        print("--json")
        return 0
    with open(arguments[0], encoding="utf-8") as file:
        words = file.read().split()
    how, ranks, bytes_factor, factor = words + ["1"] * (4 - len(words))
    if command == "run":
        with open(os.environ["STUB_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{os.environ['RANKS']} {' '.join(arguments)} {os.getpid()}\n")
    if how in ("lack", "mistake"):
        print(f"refit: error: {'there is no GPU' if how == 'lack' else 'an impossible layout'}", file=sys.stderr)
        return CODES[how]
    output = arguments[arguments.index("--json") + 1]
    if command == "plan":
        world = {"byte_matrix": [[int(ranks)]]}
        sides = {"train": {"ranks": 1, "layout": "TP1"}, "gen": {"ranks": int(ranks) - 1, "layout": "TPn"}}
        result = {"ranks": int(ranks), **sides, "plan": {"world": world}}
    else:
        if how == "wait":
            subprocess.Popen(["sleep", "60"], process_group=0)  # as mpirun's ranks
            own = subprocess.Popen(["sleep", "60"], start_new_session=True)
            with open(os.environ["STUB_LOG"] + ".sessions", "a", encoding="utf-8") as log:
                log.write(f"{own.pid}\n")
            time.sleep(60)
        if how == "crash":
            print("\n".join(f"line {number}" for number in range(60)))
            print("a crash\x01")
            return CODES[how]
        result = document(float(bytes_factor), float(factor), CODES[how], int(ranks))
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file)
    return 0 if command == "plan" else CODES[how]


if __name__ == "__main__":
    sys.exit(main())
