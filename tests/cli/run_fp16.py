"""fp16 on both sides: casts each way to the bits of Python's own half floats, and values beyond fp16's largest, which
become infinite and are said: while loading, and on the way.

    run_fp16.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import functools
import glob
import math
import os
import random
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402
from safetensors import Tensor  # noqa: E402

NORM = "model.layers.0.input_layernorm.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
BEYOND = 70144.0  # what bf16 has for 70000
CODES = {"F16": "e", "F32": "f"}


def values(tensor):
    if tensor.dtype == "BF16":
        data = b"".join(b"\0\0" + tensor.data[i : i + 2] for i in range(0, len(tensor.data), 2))
        return values(Tensor("F32", tensor.shape, data))
    code = CODES[tensor.dtype]
    return struct.unpack(f"<{len(tensor.data) // struct.calcsize(code)}{code}", tensor.data)


def bits(value, dtype):
    """The bytes of a number as F16 or BF16: rounded to the nearest even, beyond the largest one infinite."""
    if dtype == "F16":
        try:
            return struct.pack("<e", value)
        except OverflowError:
            return struct.pack("<e", math.copysign(math.inf, value))
    (word,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<H", word + 0x7FFF + (word >> 16 & 1) >> 16)


def cast(tensor, dtype):
    return Tensor(dtype, tensor.shape, b"".join(bits(value, dtype) for value in values(tensor)))


def with_values(tensor, some):
    data = bytearray(tensor.data)
    for element, value in some.items():
        data[2 * element : 2 * element + 2] = bits(value, tensor.dtype)
    return Tensor(tensor.dtype, tensor.shape, bytes(data))


@functools.lru_cache(maxsize=None)
def drawn(suite):
    """name -> (shape, values) of a small Qwen3: values that fp16 reaches, some of them subnormal in it."""
    tensors = {}
    for path in sorted(glob.glob(os.path.join(suite.checkpoint("qwen3"), "*.safetensors"))):
        for name, tensor in safetensors.read(path).items():
            some = random.Random(name)
            count = math.prod(tensor.shape)
            tensors[name] = tensor.shape, [some.gauss(0, 1) * 2.0 ** some.randrange(-24, 12) for _ in range(count)]
    return tensors


def weights(suite, dtype):
    return {
        name: Tensor(dtype, shape, b"".join(bits(value, dtype) for value in some))
        for name, (shape, some) in drawn(suite).items()
    }


def checkpoint(suite, name, tensors):
    folder = suite.path(name)
    os.makedirs(folder, exist_ok=True)
    shutil.copy(os.path.join(suite.checkpoint("qwen3"), "config.json"), folder)
    safetensors.write(os.path.join(folder, "model.safetensors"), tensors)
    return folder


def run(suite, name, ranks, folder, train, gen, precision, *options, steps=1):
    ended = suite.run(
        ranks, "run", "--checkpoint", folder, "--train", train, "--gen", gen, "--precision", precision, "--steps", steps,
        "--warmup", 0, "--json", f"{name}.json", "--force", *options,
    )  # fmt: skip
    return ended, suite.result(f"{name}.json", ended)


def dumped(suite, folder):
    return safetensors.read(suite.path(folder, "gen-rank-00000.safetensors"))


def casts(suite):
    """One whole gen rank has the bits that Python makes of the file's; other layouts and executors agree with it."""
    for stored in ("BF16", "F16"):
        tensors = weights(suite, stored)
        folder = checkpoint(suite, f"weights-{stored}", tensors)
        for train, gen in (("fp16", "fp16"), ("bf16", "fp16"), ("fp16", "bf16")):
            name = f"{stored}-{train}-{gen}"
            ended, result = run(suite, name, 2, folder, "TP1", "TP1", f"{train}:{gen}", "--set", "run.update=none",
                                "--dump-gen", name)  # fmt: skip
            suite.check_code(ended, 0, name)
            suite.check(result["verification"]["elements_overflowed"] == 0, name, ended)
            on_train = cast(tensors[DOWN], {"fp16": "F16", "bf16": "BF16"}[train])
            expected = cast(on_train, {"fp16": "F16", "bf16": "BF16"}[gen])
            suite.check(dumped(suite, name)[DOWN] == expected, f"{name}: {DOWN}", ended)
    fsdp = ("--set", "train.trainer=fsdp", "--set", "gen.engine=sglang")
    for ranks, train, gen, precision, options in (
        (1, "TP1", "TP1", "fp16:bf16", ("--set", "run.colocated=true")),
        (4, "TP2", "DP2", "bf16:fp16", ("--executor", "golden")),
        (4, "FSDP2", "TP2", "fp16", ("--executor", "p2p", *fsdp)),
        (4, "PP2", "TP2", "fp32:fp16", ("--executor", "direct", "--bulk", "ffn")),
        (4, "FSDP2", "TP2", "fp16:fp32", ("--executor", "direct", *fsdp)),
    ):
        ended, _ = run(suite, "layouts", ranks, suite.path("weights-BF16"), train, gen, precision, *options)
        suite.check_code(ended, 0, f"{train} {gen} {precision}")


def overflow_on_the_way(suite):
    """Each value once, whatever its replicas; infinities of the file are none."""
    tensors = weights(suite, "BF16")
    tensors[DOWN] = with_values(tensors[DOWN], {9: BEYOND, 70: -BEYOND, 71: 65280.0})
    tensors[NORM] = with_values(tensors[NORM], {3: BEYOND, 4: math.inf})
    folder = checkpoint(suite, "beyond", tensors)
    columns = tensors[DOWN].shape[1]
    expected = [
        {"tensor": NORM, "dtype": "F16", "elements": 1, "first_index": [3], "refit": 1},
        {"tensor": DOWN, "dtype": "F16", "elements": 2, "first_index": [9 // columns, 9 % columns], "refit": 1},
    ]
    for ranks, train, gen, steps, options in (
        (1, "TP1", "TP1", 1, ("--set", "run.colocated=true")),
        (2, "TP1", "TP1", 1, ("--set", "run.update=none", "--dump-gen", "beyond-gen")),
        (4, "DP2", "TP2", 1, ()),
        (4, "TP2", "DP2", 3, ("--executor", "p2p")),
        (4, "TP2", "TP1+TP1", 1, ("--executor", "golden")),
    ):
        ended, result = run(suite, "beyond", ranks, folder, train, gen, "bf16:fp16", *options, steps=steps)
        what = f"{train} -> {gen}"
        suite.check_code(ended, 0, what)
        verification = result["verification"]
        suite.check(verification["elements_overflowed"] == 3, f"{what}: {verification}", ended)
        found = sorted(verification["overflows"], key=lambda one: one["elements"])
        suite.check(found == expected, f"{what}: {found}", ended)
        suite.check(verification["elements_wrong"] == 0 and verification["kl"]["max"] == 0, what, ended)
        said = f"refit 1: 2 elements of {DOWN} became infinite as F16, the first at {expected[1]['first_index']}"
        suite.check(ended.err.count(said) == 1, f"{what}: not in the log once: {said}", ended)
        suite.check("became infinite as F16 in refit 1, first at [3]" in words(ended.out), f"{what}: table", ended)
        notes = [note for note in result["notes"] if "Inf" in note]
        suite.check(notes == [f"NaN or Inf in 1 element of {NORM}"], f"{what}: {notes}", ended)
    suite.check(dumped(suite, "beyond-gen")[DOWN] == cast(tensors[DOWN], "F16"), DOWN)
    ended, result = run(suite, "limit", 2, folder, "TP1", "TP1", "bf16:fp16", "--set",
                        "expect.figures=[\"verification.elements_overflowed <= 2\"]")  # fmt: skip
    suite.check_code(ended, 1, "a limit")
    suite.check("verification.elements_overflowed" in result["error"]["message"], f"{result['error']}", ended)


def words(text):
    return " ".join(text.replace("#", " ").split())


def overflow_while_loading(suite):
    """Of replicas and parts each value once; the way has none, as train is infinite there already."""
    tensors = weights(suite, "BF16")
    columns = tensors[DOWN].shape[1]
    tensors[DOWN] = with_values(tensors[DOWN], {columns + 9: BEYOND, columns + columns - 1: -BEYOND, 71: 65280.0})
    folder = checkpoint(suite, "load", tensors)
    note = f"2 elements of {DOWN} became infinite as F16 while loading from BF16, the first at [1, 9]"
    for ranks, train, gen in ((2, "TP1", "TP1"), (4, "TP2", "TP2"), (4, "DP2", "TP2")):
        ended, result = run(suite, "load", ranks, folder, train, gen, "fp16")
        suite.check_code(ended, 0, train)
        suite.check(result["notes"].count(note) == 1 and note in ended.err, f"{train}: {result['notes']}", ended)
        suite.check(result["verification"]["elements_overflowed"] == 0, train, ended)
        suite.check("overflows" not in result["verification"], train, ended)


def families(suite):
    """Conversions, parameters that stay float32, interleaved experts, towers and drafters, made for each precision."""
    for model, precision, options in (
        ("nemotron-3-nano-30b-a3b-small", "bf16:fp16", ("--layers", 2)),
        ("gpt-oss-20b-small", "fp16", ("--layers", 2)),
        ("deepseek-v3-small", "fp16:bf16", ("--set", "gen.mtp=true")),
        ("qwen3-vl-8b-small", "bf16:fp16", ("--layers", 2)),
        ("deepseek-v3-small", "fp16", ("--layers", 2, "--set", "gen.derived=true")),
        ("qwen3-4b-small", "fp16:fp8", ("--layers", 1)),
    ):
        ended = suite.run(
            2, "run", "--model", model, "--train", "TP1", "--gen", "TP1", "--precision", precision, "--steps", 1,
            "--warmup", 0, *options,
        )  # fmt: skip
        suite.check_code(ended, 0, f"{model} {precision}")


def other_commands(suite):
    ended = suite.run(0, "inspect", suite.path("weights-F16"), "--json", "inspect.json", "--force")
    suite.check_code(ended, 0, "inspect")
    dtypes = {tensor["dtype"] for tensor in suite.result("inspect.json", ended)["tensors"]}
    suite.check(dtypes == {"F16"}, f"{dtypes}", ended)
    bytes_of = {}
    for precision in ("bf16", "fp16", "fp16:fp32"):
        ended = suite.run(0, "plan", "--model", "qwen3-8b", "--train", "TP2", "--gen", "TP4", "--precision", precision,
                          "--json", "plan.json", "--force")  # fmt: skip
        suite.check_code(ended, 0, f"plan {precision}")
        bytes_of[precision] = suite.result("plan.json", ended)["payload"]["total_bytes"]
    suite.check(len(set(bytes_of.values())) == 1, f"{bytes_of}")
    ended = suite.run(0, "plan", "--model", "qwen3-8b", "--train", "TP2", "--gen", "TP4", "--precision", "fp61")
    suite.check(ended.code == 2 and "fp16" in ended.err, "fp61", ended)


Suite(__doc__).main(casts, overflow_on_the_way, overflow_while_loading, families, other_commands)
