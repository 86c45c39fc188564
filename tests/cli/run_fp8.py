"""Models whose linear layers are stored in 8 bits: FP8 with blocks of 128 x 128, and MXFP8, refitted as they are.

    run_fp8.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import os
import shutil
import sys
from dataclasses import dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402
from results import check_result  # noqa: E402

SCALE = {"fp8": "_scale_inv", "mxfp8": "_scale"}
STEPS = 2


@dataclass(frozen=True)
class Row:
    model: str
    precision: str
    train: str
    gen: str
    ranks: int


ROWS = (
    Row("qwen3-0.6b-small", "fp8", "TP2", "TP4", 6),
    Row("qwen3-0.6b-small", "mxfp8", "TP2xPP2", "TP4", 8),
    Row("qwen3-30b-a3b-small", "fp8", "EP2xPP2xDP2", "TP2", 6),
    Row("qwen3-30b-a3b-small", "fp8", "TP2xEP4", "TP4", 8),  # a rank's 64 columns of an expert are half a block
    Row("qwen3-30b-a3b-small", "mxfp8", "TP2xEP4", "TP4xEP4", 8),
    Row("deepseek-v3-small", "fp8", "EP2xDP2", "TP1xDP2", 4),
    Row("deepseek-v3-small", "mxfp8", "EP2xDP2", "TP2", 4),
)


def run(suite, row, name, *options):
    """(how it ended, result) of STEPS refits without a warm-up."""
    ended = suite.run(
        row.ranks, "run", "--train", row.train, "--gen", row.gen, "--precision", row.precision, "--steps", STEPS,
        "--warmup", 0, "--json", f"{name}.json", "--force", *options
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    return ended, suite.result(f"{name}.json", ended)


def executors(suite):
    """Every executor brings every byte; p2p and direct under both policies in turn."""
    policies = ("all", "ffn")
    for number, row in enumerate(ROWS):
        for executor, bulk in (("golden", "all"), ("p2p", policies[number % 2]), ("direct", policies[(number + 1) % 2])):
            name = f"{row.model}-{row.precision}-{row.gen}-{executor}-{bulk}"
            words = ("--model", row.model, "--layers", 4, "--executor", executor, "--bulk", bulk)
            ended, result = run(suite, row, f"executors-{number}-{executor}-{bulk}", *words)
            if result:
                check_result(suite, ended, result, bulk, name, STEPS)
                suite.check(result["train"]["precision"] == row.precision, f"{name}: {result['train']}", ended)


def synthesise(suite, row):
    """A checkpoint of the row's model with 2 layers, in both formats: {format: folder}."""
    folders = {name: suite.path(f"{row.model}-{row.precision}-{name}") for name in ("safetensors", "hdf5")}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    words = ("synth", row.model, folders["safetensors"], "--quantisation", row.precision, "--layers", 2)
    suite.check_code(suite.run(0, *words), 0, "synth")
    suite.check_code(suite.run(0, "convert", *folders.values()), 0, "convert")
    suite.check_code(suite.run(0, "compare", *folders.values()), 0, "compare")
    return folders


def checkpoints(suite):
    """From a checkpoint of either format, and from config.json alone, come the same weights; so do gen's bytes."""
    for row in (ROWS[0], ROWS[3], ROWS[4]):
        folders = synthesise(suite, row)
        sources = {name: ("--checkpoint", folder) for name, folder in folders.items()}
        sources["config"] = ("--model", row.model, "--layers", 2)
        dumps = {}
        for name, source in sources.items():
            dumps[name] = suite.path(f"dump-{name}")
            run(suite, row, "checkpoint", *source, "--dump-gen", dumps[name])
        for name in ("hdf5", "config"):
            ended = suite.run(0, "compare", dumps["safetensors"], dumps[name])
            suite.check_code(ended, 0, f"{row.model} {row.precision}: gen from safetensors and from {name}")
        ended = suite.run(0, "inspect", folders["hdf5"])
        words = ("linear layers in FP8 with blocks of 128 x 128", "F32") if row.precision == "fp8" else ("MXFP8", "U8")
        for word in (*words, "F8_E4M3"):
            suite.check(word in ended.out, f"inspect: no {word}", ended)


def bytes_arrive(suite):
    """What one gen rank stores of a row-parallel weight is what the checkpoint has, where nothing is updated."""
    for precision in SCALE:
        row = Row("qwen3-0.6b-small", precision, "TP2", "TP1", 3)
        source = synthesise(suite, row)["safetensors"]
        run(suite, row, "bytes", "--checkpoint", source, "--set", "run.update=none", "--dump-gen", "dump-bytes")
        checkpoint = safetensors.read(os.path.join(source, "model.safetensors"))
        stored = safetensors.read(suite.path("dump-bytes", "gen-rank-00000.safetensors"))
        weight = "model.layers.1.mlp.down_proj.weight"
        for name in (weight, weight + SCALE[precision]):
            suite.check(stored[name] == checkpoint[name], f"{precision}: {name} differs from the checkpoint's")


def train_is_the_same(suite):
    """What train has after its updates does not depend on how finely gen keeps its scales, and each update changes it."""
    dumps = {}
    for gen, update in (("TP1", "perturb"), ("TP4", "perturb"), ("TP1", "none")):
        row = Row("qwen3-30b-a3b-small", "fp8", "TP1", gen, 1 + int(gen[2]))
        dumps[gen, update] = suite.path(f"dump-train-{gen}-{update}")
        words = ("--model", row.model, "--layers", 2, "--set", f"run.update={update}", "--steps", 1)
        ended = suite.run(
            row.ranks, "run", "--train", row.train, "--gen", gen, "--precision", "fp8", *words, "--warmup", 0,
            "--dump-train", dumps[gen, update], "--force"
        )  # fmt: skip
        suite.check_code(ended, 0, f"train {gen} {update}")
    ended = suite.run(0, "compare", dumps["TP1", "perturb"], dumps["TP4", "perturb"])
    suite.check_code(ended, 0, "train weights with gen TP1 and TP4")
    updated, loaded = (
        safetensors.read(os.path.join(dumps["TP1", update], "train-rank-00000.safetensors"))
        for update in ("perturb", "none")
    )
    for name, tensor in updated.items():
        changed = sum(a != b for a, b in zip(tensor.data, loaded[name].data))
        # A byte of every element; rows of scales end in padding, which stays.
        least = 1 if name.endswith("_scale_inv") else len(tensor.data) // {"F8_E4M3": 1, "BF16": 2}[tensor.dtype]
        suite.check(changed >= least, f"{name}: {changed} of {len(tensor.data)} bytes changed")


def mistakes(suite):
    """A checkpoint of another precision than the case says, and widths that blocks do not divide."""
    row = ROWS[0]
    quantised = synthesise(suite, row)["safetensors"]
    plain = suite.path("plain")
    shutil.rmtree(plain, ignore_errors=True)
    suite.check_code(suite.run(0, "synth", row.model, plain, "--layers", 2), 0, "synth")
    layouts = ("--train", "TP1", "--gen", "TP1")
    for words, expected in (
        (("--checkpoint", quantised, "--precision", "mxfp8"), "its weights are fp8, which does not go with train.precision = mxfp8"),
        (("--checkpoint", plain, "--precision", "fp8"), "its weights are not quantised"),
        (("--model", row.model, "--precision", "fp8:bf16"), "fp8 -> bf16 is not possible"),
    ):
        for command in ("run", "plan"):
            ended = suite.run(2 if command == "run" else 0, command, *layouts, *words)
            suite.check_code(ended, 2, f"{words}")
            suite.check(ended.err.count(expected) == 1, f"{words}: not said once: {expected}", ended)


def published_payload(suite):
    """Bulk fractions of the field's reports, from refit plan."""
    for model, precision, fraction in (
        ("qwen3-30b-a3b", "fp8", "93.0"), ("qwen3-4b", "fp8", "61.0"), ("qwen3-235b-a22b", "fp8", "96.0"),
        ("qwen3-32b", "mxfp8", "71.3"),
    ):  # fmt: skip
        ended = suite.run(
            0, "plan", "--model", model, "--train", "TP1", "--gen", "TP1", "--precision", precision, "--bulk", "ffn"
        )
        suite.check_code(ended, 0, f"plan {model}")
        suite.check(f"xfer_frac={fraction}%" in ended.out, f"{model}: not {fraction} %", ended)


Suite(__doc__).main(executors, checkpoints, bytes_arrive, train_is_the_same, mistakes, published_payload)
