"""Ranks that are train and gen rank at once: the same weights as with ranks apart, and no wire for what a rank has.

    run_colocated.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import os
import re
import signal
import sys
import time
from dataclasses import dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import without_hosts  # noqa: E402

QWEN3 = ("--model", "qwen3-0.6b-small", "--layers", 2)
MOE = ("--model", "qwen3-30b-a3b-small", "--layers", 2)
DEEPSEEK = ("--model", "deepseek-v3-small")
FSDP = ("--set", "train.trainer=fsdp", "--set", "train.recipe=automodel")
SGLANG = ("--set", "gen.engine=sglang")


@dataclass(frozen=True)
class Pair:
    name: str
    options: tuple
    train: str
    gen: str
    ranks: int  # of train, of gen
    gen_ranks: int
    ways: tuple = (("direct", "all"), ("p2p", "ffn"), ("golden", "whitelist"))


PAIRS = (
    Pair("alone", QWEN3, "TP1", "TP1", 1, 1, (("golden", "all"), ("p2p", "all"), ("direct", "ffn"))),
    Pair("alike", (*QWEN3, "--precision", "fp32:bf16"), "TP2", "TP2", 2, 2),
    Pair("unlike", MOE, "EP2xPP2", "TP2xDP2", 4, 4, (("direct", "ffn"), ("p2p", "all"), ("golden", "all"))),
    Pair("more-train", MOE, "TP2xDP2xEP4", "TP2xEP2", 4, 2),
    Pair("more-gen", (*QWEN3, "--precision", "fp8"), "TP2", "TP4", 2, 4),
    Pair("quantised", (*QWEN3, "--precision", "bf16:fp8"), "TP2xPP2", "TP2", 4, 2,
         (("direct", "all"), ("p2p", "all"), ("golden", "all"))),
    Pair("mtp", (*DEEPSEEK, "--set", "gen.mtp=with", "--set", "gen.derived=true"), "EP2xDP2", "TP2", 2, 2,
         (("direct", "all"), ("p2p", "ffn"))),
    Pair("fsdp-sglang", (*MOE, *FSDP, *SGLANG), "FSDP4", "TP2xEP2", 4, 2, (("direct", "all"), ("golden", "all"))),
)  # fmt: skip


def refit(suite, name, ranks, *options, code=0):
    """(how it ended, its result) of two refits without a warm-up."""
    ended = suite.run(ranks, "run", *options, "--steps", 2, "--warmup", 0, "--force", "--json", f"{name}.json")
    suite.check_code(ended, code, name)
    return ended, suite.result(f"{name}.json", ended)


def check_right(suite, ended, result, name):
    found = result["verification"]
    suite.check(found["refits"] == 2 and found["elements"] > 0, f"{name}: {found}", ended)
    suite.check((found["elements_wrong"], found["wrong"]) == (0, []), f"{name}: {found}", ended)
    suite.check(found["fingerprint_train"] == found["fingerprint_gen"], f"{name}: fingerprints differ", ended)


def same_weights(suite):
    """Gen's bytes are those of a run whose sides are apart, whichever way they go."""
    for pair in PAIRS:
        sides = (*pair.options, "--train", pair.train, "--gen", pair.gen)
        apart = f"{pair.name}-apart"
        _, other = refit(suite, apart, pair.ranks + pair.gen_ranks, *sides, "--dump-train", f"{apart}-train",
                         "--dump-gen", f"{apart}-gen")  # fmt: skip
        suite.check(other["wire"]["self_bytes"] == other["wire"]["self_copies"] == 0, f"{apart}: {other['wire']}")
        for executor, policy in pair.ways:
            name = f"{pair.name}-{executor}-{policy}"
            ended, result = refit(
                suite, name, max(pair.ranks, pair.gen_ranks), *sides, "--colocated", "--executor", executor, "--bulk",
                policy, "--dump-train", f"{name}-train", "--dump-gen", f"{name}-gen",
            )  # fmt: skip
            if not result:
                continue
            check_right(suite, ended, result, name)
            for side in ("train", "gen"):
                compared = suite.run(0, "compare", f"{apart}-{side}", f"{name}-{side}")
                suite.check_code(compared, 0, f"compare {name}-{side}")
            for part in ("fingerprint_train", "elements"):
                found = (result["verification"][part], other["verification"][part])
                suite.check(found[0] == found[1], f"{name}: {part} {found}", ended)
            check_wire(suite, ended, pair, result, name)


def check_wire(suite, ended, pair, result, name):
    """What ranks have themselves costs no wire; everything else that gen needs does."""
    wire, payload = result["wire"], result["payload"]
    total = payload["bulk_bytes"] + payload["misc_bytes"]
    total //= {"quantised": 4, "alike": 2}.get(pair.name, 1)  # what moves is smaller than what train stores
    suite.check(wire["bytes"] + wire["self_bytes"] >= total and wire["self_bytes"] > 0, f"{name}: {wire}, {payload}", ended)
    suite.check((wire["self_copies"] > 0) == (payload["bulk_bytes"] > 0), f"{name}: {wire}", ended)
    if pair.name == "alone":
        suite.check(wire["bytes"] == wire["copies"] == wire["ingress_bytes_max"] == 0, f"{name}: {wire}", ended)
        suite.check(wire["self_bytes"] == total, f"{name}: {wire} of {total}", ended)
    if pair.name == "alike":  # the other rank's copy of the misc stream, and nothing else
        suite.check(wire["bytes"] == payload["misc_bytes"], f"{name}: {wire}, {payload}", ended)


def fan_out(suite):
    """A replica that has its weights itself is in no domain that is fed."""
    wires = {}
    for mode in ("off", "on"):
        name = f"fan-out-{mode}"
        ended, result = refit(suite, name, 4, *QWEN3, "--train", "TP1", "--gen", "DP4", "--colocated", "--fan-out", mode,
                              "--dump-gen", name)  # fmt: skip
        check_right(suite, ended, result, name)
        wires[mode] = result["wire"]
    on, off = wires["on"], wires["off"]
    suite.check_code(suite.run(0, "compare", "fan-out-off", "fan-out-on"), 0, "compare")
    suite.check(on["bytes"] == off["bytes"] == 3 * on["self_bytes"] and off["forwarded_bytes"] == 0, f"wire: {wires}")
    suite.check(on["forwarded_bytes"] > 0 and on["egress_bytes_max"] < off["egress_bytes_max"], f"wire: {wires}")


def every_output(suite):
    """What was planned is what a run did, and every output says what stayed on its rank."""
    options = (*MOE, "--train", "EP2xPP2", "--gen", "TP2", "--colocated", "--executor", "p2p", "--bulk", "ffn")
    ended = suite.run(0, "plan", *options, "--json", "planned.json", "--byte-matrix", "matrix.txt", "--force")
    suite.check_code(ended, 0, "plan")
    planned = suite.result("planned.json", ended)
    suite.check("from ranks to themselves" in " ".join(ended.out.replace("#", " ").split()), "plan's wire", ended)
    with open(suite.path("matrix.txt"), encoding="utf-8") as file:
        matrix = [[int(word) for word in line.split()] for line in file]
    suite.check([len(row) for row in matrix] == [4] * 4, f"matrix of {[len(row) for row in matrix]}")
    suite.check(all(matrix[r][r] == 0 for r in range(4)), f"matrix {matrix}")
    suite.check(sum(map(sum, matrix)) == planned["wire"]["bytes"] > 0, f"matrix {matrix}, {planned['wire']}")

    case = suite.path("colocated.toml")
    with open(case, "w", encoding="utf-8") as file:
        file.write("run.colocated = true\n")
    ended, done = refit(suite, "done", 4, case, *options[:-5], *options[-4:], "--csv", "done.csv", "--hdf5", "done.h5")
    suite.check(done["wire"]["between_hosts_bytes"] == 0 < done["wire"]["within_hosts_bytes"], f"{done['wire']}", ended)
    done["wire"] = without_hosts(done["wire"])
    for part in ("payload", "wire"):
        suite.check(planned[part] == done[part], f"{part}: {planned[part]} planned, {done[part]} done", ended)
    suite.check(done["settings"]["colocated"] is True, f"{done['settings']}", ended)
    ranks = [(rank["rank"], rank["group"]) for rank in done["environment"]["ranks"]]
    expected = [*((r, "train") for r in range(4)), *((r, "gen") for r in range(2))]
    suite.check(ranks == expected, f"ranks {ranks}", ended)
    pids = {(rank["rank"], rank["pid"]) for rank in done["environment"]["ranks"]}
    suite.check(len(pids) == 4, f"processes {pids}", ended)
    with open(suite.path("done.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = {(int(row["wire_bytes"]), int(row["self_bytes"])) for row in rows}
    suite.check(numbers == {(done["wire"]["bytes"], done["wire"]["self_bytes"])}, f"CSV: {numbers}", ended)
    with open(suite.path("done.h5"), "rb") as file:
        text = file.read()
    suite.check(b"self_bytes" in text and b"wire_bytes" in text, "HDF5 has no attribute of the wire")


def bugs(suite):
    """Found, named and placed on the side and rank where they are."""
    qwen3 = ("--checkpoint", suite.checkpoint("qwen3"), "--precision", "fp32", "--train", "TP2", "--gen", "TP2", "--colocated")
    names = {}
    for bug in ("stale-refit", "swap-gate-up", "corrupt-replica", "lost-update"):
        ended, result = refit(suite, bug, 2, *qwen3, "--inject", bug, code=1)
        suite.check(result["error"]["kind"] == "data", f"{bug}: {result['error']}", ended)
        names[bug] = result["verification"]
    stale = names["stale-refit"]
    suite.check(stale["elements_wrong"] == stale["elements"], f"stale-refit: {stale['elements_wrong']}")
    swapped = {(entry["gen_rank"], re.sub(r".*\.", "", entry["tensor"][: -len(".weight")]))
               for entry in names["swap-gate-up"]["wrong"]}  # fmt: skip
    suite.check(swapped == {(1, "gate_proj"), (1, "up_proj")}, f"swap-gate-up: {swapped}")
    odd = [(entry["tensor"], entry["train_rank"]) for entry in names["corrupt-replica"]["wrong_replicas"]]
    suite.check(odd == [("model.layers.0.input_layernorm.weight", 1)], f"corrupt-replica: {odd}")


def refusals(suite):
    sides = (*QWEN3, "--train", "TP2", "--gen", "TP2", "--colocated")
    for ranks, options, text in (
        (0, ("--executor", "m2n"), "run.colocated"),
        (0, ("--set", "run.strict_upstream=merged"), "[V1]"),
        (2, ("--inject", "skip-send"), "train and gen ranks that are apart (run.colocated)"),
        (4, (), "this case needs 2 ranks"),
    ):
        ended = suite.run(ranks, "run" if ranks else "plan", *sides, *options)
        suite.check_code(ended, 2, " ".join(options))
        suite.check(text in " ".join(ended.err.split()), f"{options}: not refused in words", ended)


def killed(suite):
    """The process is named once, and all is over."""
    for executor in ("direct", "p2p"):
        job = suite.start(2, "run", *QWEN3, "--train", "TP2", "--gen", "TP2", "--colocated", "--executor", executor,
                          "--bulk", "ffn", "--steps", 1_000_000, "--json", "killed.json", "--force")  # fmt: skip
        printed = ""
        for line in job.process.stdout:
            printed += line
            if re.match(r" +3 +[\d.]+ ", line):
                break
        pids = {int(pid) for pid in re.findall(r"^# +1  (?:train|gen) +(\d+) ", printed, re.MULTILINE)}
        if not suite.check(len(pids) == 1, f"{executor}: rank 1 is {pids}"):
            job.kill()
            continue
        begin = time.monotonic()
        os.kill(pids.pop(), signal.SIGKILL)
        ended = job.wait(30)
        suite.check(ended.code not in (None, 0) and time.monotonic() - begin < 15, f"{executor}: {ended.seconds:.1f} s", ended)
        died = re.findall(r"^refit: rank 1 \(host \S+, pid \d+\) has died in phase ", ended.err, re.MULTILINE)
        suite.check(len(died) == 1, f"{executor}: nobody says who died", ended)
        result = suite.result("killed.json", ended)
        suite.check(result.get("status") == "error", f"{executor}: status {result.get('status')}", ended)


Suite(__doc__).main(same_weights, fan_out, every_output, bugs, refusals, killed)
