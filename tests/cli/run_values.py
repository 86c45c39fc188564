"""What equal bits do not show is said: NaN and infinities in weights, and values that were rounded while loading.

    run_values.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import dataclasses
import glob
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

NORM = "model.layers.0.input_layernorm.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
BEYOND_BF16 = bytes.fromhex("ffff7f7f")  # the largest F32: infinite as bf16


def weights(suite):
    """The tensors of the Qwen3 checkpoint, all F32."""
    tensors = {}
    for path in sorted(glob.glob(os.path.join(suite.checkpoint("qwen3"), "*.safetensors"))):
        tensors.update(safetensors.read(path))
    assert all(tensor.dtype == "F32" for tensor in tensors.values())
    return tensors


def exact(tensor):
    """The values that bf16 has of them: with 16 bits less."""
    data = bytearray(tensor.data)
    data[0::4] = data[1::4] = bytes(len(data) // 4)
    return dataclasses.replace(tensor, data=bytes(data))


def with_values(tensor, values):
    """element -> its four bytes"""
    data = bytearray(tensor.data)
    for element, bits in values.items():
        data[4 * element : 4 * element + 4] = bits
    return dataclasses.replace(tensor, data=bytes(data))


def run(suite, name, tensors, precision, *options):
    folder = suite.path(name)
    os.makedirs(folder, exist_ok=True)
    shutil.copy(os.path.join(suite.checkpoint("qwen3"), "config.json"), folder)
    safetensors.write(os.path.join(folder, "model.safetensors"), tensors)
    ended = suite.run(
        4, "run", "--checkpoint", folder, "--train", "DP2", "--gen", "TP2", "--precision", precision, "--steps", 2,
        "--warmup", 0, "--json", f"{name}.json", "--force", *options,
    )  # fmt: skip
    return ended, suite.result(f"{name}.json", ended)


def said(result):
    return [note for note in result.get("notes", []) if "NaN" in note or "rounded" in note]


def rounding(suite):
    """Only of tensors of which a value is lost, in words that count them and name the first."""
    tensors = weights(suite)
    names = list(tensors)
    for name, inexact, precision, expected in (
        ("as-they-are", set(names), "fp32", []),
        ("none", set(), "bf16", []),
        ("one", {DOWN}, "bf16", [f"1 tensor of dtype F32 was rounded to BF16 while loading, first {DOWN}"]),
    ):
        some = {key: tensor if key in inexact else exact(tensor) for key, tensor in tensors.items()}
        ended, result = run(suite, name, some, precision)
        suite.check_code(ended, 0, name)
        suite.check(said(result) == expected, f"{name}: {said(result)}", ended)
        for note in expected:
            suite.check(note in ended.err, f"{name}: not in the log", ended)
            suite.check(note in " ".join(ended.out.replace("#", " ").split()), f"{name}: not in the table", ended)
    ended, result = run(suite, "all", tensors, "bf16")
    suite.check(f"{len(names)} tensors of dtype F32 were rounded" in said(result)[0], f"all: {said(result)}", ended)


def not_finite(suite):
    """Equal bits are right. Of replicas each element counts once; what a cast makes infinite is said as such."""
    tensors = {key: exact(tensor) for key, tensor in weights(suite).items()}
    tensors[NORM] = with_values(tensors[NORM], {3: bytes.fromhex("0000c07f")})
    tensors[DOWN] = with_values(tensors[DOWN], {0: bytes.fromhex("000080ff"), 9: BEYOND_BF16})
    of_norm = f"NaN or Inf in 1 element of {NORM}"
    of_down = f"NaN or Inf in 1 element of {DOWN}"
    ended, result = run(suite, "nan", tensors, "fp32")
    suite.check_code(ended, 0, "NaN in fp32")
    suite.check(sorted(said(result)) == sorted([of_norm, of_down]), f"{said(result)}", ended)
    suite.check(result["verification"]["kl"]["max"] == 0, f"{result['verification']['kl']}", ended)
    ended, result = run(suite, "cast", tensors, "fp32:bf16", "--set", "run.update=none")
    suite.check_code(ended, 0, "NaN through a cast")
    expected = [of_norm, of_down]
    suite.check(sorted(said(result)) == sorted(expected), f"{said(result)}", ended)
    for note in [*expected, f"refit 1: 1 element of {DOWN} became infinite as BF16, the first at [0, 9]"]:
        suite.check(note in ended.err, f"{note}: not in the log", ended)


def beside_wrong_data(suite):
    """A refit that leaves poison behind in weights of a natural size: the KL says that it is one of NaN."""
    ended = suite.run(
        4, "run", "--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--gen", "TP2", "--steps", 1,
        "--warmup", 0, "--json", "poison.json", "--force", "--inject", "drop-tensor",
    )  # fmt: skip
    suite.check_code(ended, 1, "poison")
    result = suite.result("poison.json", ended)
    wrong, kl = result["verification"]["elements_wrong"], result["verification"]["kl"]
    suite.check(kl.get("not_finite") == 1 and kl["max"] > 0, f"{kl}", ended)
    note = f"NaN or Inf in {wrong} elements of {kl['tensor']} on gen, as BF16, and in 0 elements on train"
    suite.check(said(result) == [note], f"{said(result)}", ended)
    suite.check("it says nothing of 1 matrix with NaN" in " ".join(ended.out.replace("#", " ").split()), "KL", ended)


Suite(__doc__).main(rounding, not_finite, beside_wrong_data)
