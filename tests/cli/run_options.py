"""Precisions, schedules and buffers: each must give right data, and casts the same bits as with any other executor.

    run_options.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

SMALL = ("--model", "qwen3-0.6b-small", "--layers", 4)


def good(suite, name, *arguments, ranks=6, train="TP2xPP2", gen="TP2"):
    """The result of a run that must pass with nothing wrong."""
    ended = suite.run(
        ranks, "run", *arguments, "--train", train, "--gen", gen, "--steps", 2, "--warmup", 0, "--force",
        "--json", f"{name}.json",
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    found = result["verification"]
    suite.check(found["elements_wrong"] == 0 and found["refits"] == 2, f"{name}: {found}", ended)
    return result


def equal_dumps(suite, a, b):
    ended = suite.run(0, "compare", a, b)
    suite.check_code(ended, 0, f"compare {a} {b}")


def casts(suite):
    """The cast is made by source, by destination or on the way; the bits are the same, and KL is 0."""
    for precision in ("fp32:bf16", "bf16:fp32"):
        name = precision.replace(":", "-")
        for executor in ("golden", "p2p", "direct"):
            result = good(
                suite, f"{name}-{executor}", *SMALL, "--precision", precision, "--executor", executor, "--bulk", "ffn",
                "--dump-train", f"{name}-train-{executor}", "--dump-gen", f"{name}-{executor}",
            )  # fmt: skip
            sides = (result["train"]["precision"], result["gen"]["precision"])
            suite.check(sides == tuple(precision.split(":")), f"{name}: {sides}")
            suite.check(result["verification"]["kl"]["max"] == 0, f"{name}: {result['verification']['kl']}")
        for other in ("p2p", "direct"):
            equal_dumps(suite, f"{name}-golden", f"{name}-{other}")
        check_cast_bits(suite, name, precision)


def nearest_even(bits):
    """A finite fp32's bits as bf16's."""
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def check_cast_bits(suite, name, precision):
    """The final norm, a whole tensor on both sides, recomputed here element by element."""
    train = safetensors.read(suite.path(f"{name}-train-golden", "train-rank-00003.safetensors"))
    gen = safetensors.read(suite.path(f"{name}-golden", "gen-rank-00000.safetensors"))
    ours, theirs = train["decoder.final_layernorm.weight"], gen["model.norm.weight"]
    if precision == "fp32:bf16":
        values = struct.unpack(f"<{len(ours.data) // 4}I", ours.data)
        expected = struct.pack(f"<{len(values)}H", *map(nearest_even, values))
    else:
        values = struct.unpack(f"<{len(ours.data) // 2}H", ours.data)
        expected = struct.pack(f"<{len(values)}I", *(value << 16 for value in values))
    suite.check(theirs.data == expected, f"{name}: model.norm.weight is not the rounded train weight")
    suite.check(len(set(values)) > 1, f"{name}: the norm is constant, so this shows nothing")


def tiny_misc_buffer(suite):
    """The smallest buffers: every tensor of the misc path takes many turns. Smaller ones are refused."""
    checkpoint = ("--checkpoint", suite.checkpoint("qwen3"), "--bulk", "ffn")
    for size in (4096, 5001, "4KiB"):
        name = f"misc-{size}"
        result = good(suite, name, *checkpoint, "--dump-gen", name, "--set", f"refit.misc_buffer_bytes={size}")
        suite.check(result["settings"]["misc_buffer_bytes"] == (4096 if size == "4KiB" else size), f"{name}")
        suite.check(result["payload"]["misc_bytes"] > 0, f"{name}: {result['payload']}")
    equal_dumps(suite, "misc-4096", "misc-5001")
    equal_dumps(suite, "misc-4096", "misc-4KiB")
    ended = suite.run(0, "plan", *checkpoint, "--train", "TP1", "--gen", "TP1", "--set", "refit.misc_buffer_bytes=4095")
    suite.check_code(ended, 2, "a buffer of 4095 bytes")
    suite.check("refit.misc_buffer_bytes: 4095 is less than 4096" in ended.err, "names the option", ended)


def schedules(suite):
    """Communicators x streams, with two stages."""
    names = []
    for executor in ("golden", "p2p"):
        for communicators in ("single", "per-stage"):
            for streams in (1, 2):
                name = f"{executor}-{communicators}-{streams}"
                result = good(
                    suite, name, *SMALL, "--executor", executor, "--set", f"refit.communicators={communicators}",
                    "--set", f"refit.streams={streams}", "--dump-gen", name,
                )  # fmt: skip
                settings = result["settings"]
                given = (settings["communicators"], settings["streams"])
                suite.check(given == (communicators, streams), f"{name}: {settings}")
                names.append(name)
    for other in names[1:]:
        equal_dumps(suite, names[0], other)


def p2p_tuning(suite):
    """Groups and chunks much smaller than the copies."""
    tuning = ("--set", "refit.group_size=1", "--set", "refit.chunk_bytes=1KiB", "--set", "refit.ring_chunks=1")
    for name, more in (("p2p-tiny", tuning), ("p2p-default", ())):
        good(suite, name, *SMALL, "--executor", "p2p", *more, "--dump-gen", name)
    equal_dumps(suite, "p2p-tiny", "p2p-default")


def fan_out(suite):
    """Replicas that forward to each other hold the same bits; what is forwarded leaves the train rank once.

    Most tensors of so small a model are too small to be cut between three replicas.
    """
    sides = {"ranks": 4, "train": "TP1", "gen": "DP3"}
    wires = {}
    for fan_out in ("off", "on"):
        name = f"fan-out-{fan_out}"
        result = good(suite, name, *SMALL, "--fan-out", fan_out, "--dump-gen", name, **sides)
        suite.check(result["settings"]["fan_out"] == fan_out, f"{name}: {result['settings']}")
        wires[fan_out] = result["wire"]
    equal_dumps(suite, "fan-out-off", "fan-out-on")
    on, off = wires["on"], wires["off"]
    suite.check(on["bytes"] == off["bytes"] and off["forwarded_bytes"] == 0, f"wire: {wires}")
    suite.check(0.3 < on["forwarded_bytes"] / on["bytes"] <= 2 / 3, f"wire: {on}")
    suite.check(on["egress_bytes_max"] < 0.65 * off["egress_bytes_max"], f"wire: {wires}")
    ended = suite.run(0, "plan", *SMALL, "--train", "TP1", "--gen", "DP3", "--executor", "p2p", "--fan-out", "on")
    suite.check_code(ended, 2, "fan-out of p2p")
    suite.check("refit.fan_out" in ended.err, "fan-out of p2p names the key", ended)


def tied_lm_head(suite):
    """A tied model by config only: vLLM keeps a lm_head.weight of its own exactly if the checkpoint has one."""
    counts = {}
    for where in ("absent", "present"):
        result = good(suite, f"tied-{where}", *SMALL, "--set", f"model.tied_lm_head={where}", "--dump-gen", f"tied-{where}")
        counts[where] = result["model"]["tensors"]
    suite.check(counts["present"] == counts["absent"] + 1, f"tensors: {counts}")
    for rank in range(2):
        file = f"gen-rank-{rank:05}.safetensors"
        absent, present = (safetensors.read(suite.path(f"tied-{where}", file)) for where in counts)
        head = present.pop("lm_head.weight", None)
        suite.check(head == present["model.embed_tokens.weight"], f"{file}: lm_head.weight is not the embedding")
        suite.check(absent == present, f"{file}: other weights with lm_head.weight than without")


def results_of_every_kind(suite):
    """CSV, HDF5 and JUnit beside JSON; verify = last verifies once."""
    outputs = ("--csv", "all.csv", "--hdf5", "all.h5", "--junit", "all.xml", "--set", "run.verify=last")
    ended = suite.run(4, "run", *SMALL, "--train", "PP2", "--gen", "TP2", "--steps", 3, "--warmup", 1, *outputs,
                      "--json", "all.json", "--force")  # fmt: skip
    suite.check_code(ended, 0, "all outputs")
    suite.check(suite.result("all.json", ended)["verification"]["refits"] == 1, "verify = last", ended)
    with open(suite.path("all.csv"), encoding="utf-8") as file:
        suite.check(len(file.readlines()) == 1 + 4, "rows of the CSV: a heading and one per refit")
    with open(suite.path("all.xml"), encoding="utf-8") as file:
        suite.check("<testcase" in file.read(), "JUnit")
    suite.check(os.path.getsize(suite.path("all.h5")) > 0, "HDF5")


def threads(suite):
    """Threads of a rank change nothing but the time; more than its cores are refused with both numbers."""
    cores = len(os.sched_getaffinity(0))
    small = ("--threads", 2) if cores > 1 else ()
    for executor in ("direct", "p2p"):
        result = good(suite, f"threads-{executor}", *SMALL, "--executor", executor, "--bulk", "ffn", *small)
        suite.check(result["settings"].get("threads", 1) == (2 if cores > 1 else 1), f"settings {result['settings']}")
    good(suite, "threads-fp8", *SMALL, "--precision", "bf16:fp8", *small)
    name = "threads-refused"
    ended = suite.run(
        6, "run", *SMALL, "--train", "TP2xPP2", "--gen", "TP2", "--threads", 4096, "--json", f"{name}.json", "--force"
    )
    suite.check_code(ended, 2, name)
    refused = re.search(r"run\.threads: 4096 threads for each rank, which may use (\d+) cores?", ended.err)
    suite.check(refused is not None and 0 < int(refused[1]) <= cores, f"{name}: no numbers", ended)


def misc_ring(suite):
    """misc stages two buffers and what its gathers pack, far less than the ring that its options allow."""
    result = good(suite, "misc-ring", *SMALL, "--bulk", "ffn", train="TP2", gen="TP1", ranks=3)
    memory = result["memory"]
    suite.check(0 < memory["staging_bytes_max"] < memory["gen_bytes_max"], f"misc-ring: {memory}")


Suite(__doc__).main(casts, tiny_misc_buffer, schedules, p2p_tuning, fan_out, tied_lm_head, results_of_every_kind, threads,
                    misc_ring)
