"""Weights that are quantised on the way in parts: NVFP4, MXFP4, FP8 by tensor and by row, INT4, from bf16 and fp32.

    run_parts.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import math
import os
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

DENSE = ("--model", "qwen3-4b-small", "--layers", 2)
MOE = ("--model", "qwen3-30b-a3b-small", "--layers", 2)
FSDP = ("--set", "train.trainer=fsdp")
PRECISIONS = ("nvfp4", "mxfp4", "fp8_tensor", "fp8_channel", "int4")


def check_kl(suite, name, precision, kl):
    """The bands of docs/precisions.md, wider for few matrices."""
    least, most, largest = (0.002, 0.011, 0.06) if "fp8" in precision else (0.03, 0.15, 1.0)
    suite.check(least < kl["mean"] < most and kl["max"] < largest, f"{name}: {kl}")


def run(suite, name, ranks, train, gen, precision, *options):
    """The result of two refits that must bring every byte, with the KL of the format."""
    ended = suite.run(
        ranks, "run", "--train", train, "--gen", gen, "--precision", precision, "--steps", 2, "--warmup", 0, "--force",
        "--json", f"{name}.json", *options
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    found = result["verification"]
    suite.check(found["elements_wrong"] == 0 and found["refits"] == 2, f"{name}: {found}", ended)
    check_kl(suite, name, precision, found["kl"])
    return result


def any_layout(suite):
    """Whatever the executor and the train layout, gen gets the same bytes; a reduction is a phase, where there is one."""
    dense = (DENSE, "TP2", (("direct", "TP1", 3, ()), ("p2p", "TP2xPP2", 6, ()), ("golden", "FSDP2", 4, FSDP)))
    moe = (MOE, "TP2xEP2", (("p2p", "TP1", 3, ()), ("direct", "EP2", 4, ()), ("golden", "TP2xPP2", 6, ())))
    for precision, (model, gen, runs) in (
        ("nvfp4", dense), ("nvfp4", moe), ("mxfp4", moe), ("fp8_tensor", moe), ("fp8_channel", dense), ("int4", dense)
    ):  # fmt: skip
        names = []
        for executor, train, ranks, trainer in runs:
            names.append(f"{model[1]}-{precision}-{executor}")
            result = run(suite, names[-1], ranks, train, gen, f"bf16:{precision}", *model, *trainer,
                         "--executor", executor, "--dump-gen", names[-1])  # fmt: skip
            phases = result["phases"]
            whole_rows = precision == "fp8_channel" and train != "TP2xPP2"
            none = ranks == 3 or whole_rows or precision in ("mxfp4", "int4")
            suite.check("quantise" in phases and ("quantise.reduce" in phases) != none, f"{names[-1]}: {phases}")
        for other in names[1:]:
            suite.check_code(suite.run(0, "compare", names[0], other), 0, f"compare {names[0]} {other}")


def f32(value):
    """A double rounded to a float32."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def bf16(value):
    """A finite float32 rounded to a bfloat16, halves to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def e4m3(value):
    """The byte of a finite float, rounded to nearest even, at most 448."""
    sign = 0x80 if math.copysign(1.0, value) < 0 else 0
    magnitude = min(abs(value), 448.0)
    exponent = max(math.frexp(magnitude)[1] - 1, -6) if magnitude > 0 else -6
    return sign | ((exponent + 6) * 8 + round(math.ldexp(magnitude, 3 - exponent)))  # Python rounds halves to even


def from_e4m3(byte):
    exponent, mantissa = byte >> 3, byte & 7
    return math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10)


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e2m1(value):
    """The nibble of a float: the nearest value, of two the one of even number; zero has no sign."""
    magnitude = abs(value)
    distance = min(abs(magnitude - one) for one in E2M1)
    near = [i for i, one in enumerate(E2M1) if abs(magnitude - one) == distance]
    index = near[0] if len(near) == 1 else next(i for i in near if i % 2 == 0)
    return index | (8 if value < 0 else 0)


def packed(nibbles):
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2]))


def largest(rows):
    return max(abs(value) for row in rows for value in row)


def nvfp4(rows, group):
    """compressed-tensors' NVFP4 of bf16 weights; `group`: all weights that share the divisor."""
    divisor = bf16(f32(bf16(f32(1.0 / max(map(largest, group)))) * 2688.0))
    nibbles, scales = [], bytearray()
    for row in rows:
        for left in range(0, len(row), 16):
            block = row[left : left + 16]
            scales.append(e4m3(f32(divisor * bf16(f32(max(map(abs, block)) / 6.0)))) or 0x20)
            by = f32(from_e4m3(scales[-1]) / divisor)
            nibbles += [e2m1(f32(value / by)) for value in block]
    return {"_packed": packed(nibbles), "_scale": bytes(scales), "_global_scale": struct.pack("<f", divisor)}


def mxfp4(rows, _):
    nibbles, scales = [], bytearray()
    for row in rows:
        for left in range(0, len(row), 32):
            block = row[left : left + 32]
            mantissa, exponent = math.frexp(max(map(abs, block)))
            exponent += (1 if mantissa >= 0.875 else 0) - 3
            scales.append(exponent + 127)
            nibbles += [e2m1(bf16(math.ldexp(value, -exponent))) for value in block]
    return {"_packed": packed(nibbles), "_scale": bytes(scales)}


def fp8(rows, scale):
    return bytes(e4m3(bf16(f32(value / scale)) + 0.0) for row in rows for value in row)


def fp8_tensor(rows, _):
    scale = bf16(f32(largest(rows) / 448.0))
    return {"": fp8(rows, scale), "_scale": struct.pack("<f", scale)}


def fp8_channel(rows, _):
    scales = [bf16(f32(largest([row]) / 448.0)) for row in rows]
    made = b"".join(fp8([row], scale) for row, scale in zip(rows, scales))
    return {"": made, "_scale": struct.pack(f"<{len(scales)}f", *scales)}


def int4(rows, _):
    nibbles, scales = [], bytearray()
    for row in rows:
        for left in range(0, len(row), 128):
            block = row[left : left + 128]
            scale = bf16(f32(max(map(abs, block)) / 7.5))
            scales += struct.pack("<f", scale)[2:]
            nibbles += [min(max(round(bf16(f32(value / scale))), -8), 7) + 8 for value in block]
    shape = struct.pack("<2q", len(rows), len(rows[0]))
    return {"_packed": packed(nibbles), "_scale": bytes(scales), "_shape": shape}


def rows_of(tensor):
    bits = struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data)
    values = struct.unpack(f"<{len(bits)}f", b"".join(struct.pack("<I", b << 16) for b in bits))
    columns = tensor.shape[1]
    return [values[at : at + columns] for at in range(0, len(values), columns)]


def bits_are_the_quantisers(suite):
    """Recomputed here, value by value, from the checkpoint."""
    folder = suite.path("checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    suite.check_code(suite.run(0, "synth", DENSE[1], folder, "--layers", 1), 0, "synth")
    checkpoint = safetensors.read(os.path.join(folder, "model.safetensors"))
    for quantise in (nvfp4, mxfp4, fp8_tensor, fp8_channel, int4):
        name = f"bits-{quantise.__name__}"
        run(suite, name, 3, "TP2", "TP1", f"bf16:{quantise.__name__}", "--checkpoint", folder, "--set",
            "run.update=none", "--dump-gen", name)  # fmt: skip
        stored = safetensors.read(suite.path(name, "gen-rank-00000.safetensors"))
        for engine, modules in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            group = [rows_of(checkpoint[f"model.layers.0.mlp.{module}.weight"]) for module in modules]
            made = [quantise(rows, group) for rows in group]
            for suffix in made[0]:
                expected = b"".join(parts[suffix] for parts in made)
                if suffix == "_shape":
                    expected = made[-1][suffix]  # engines keep what they load last
                found = stored[f"model.layers.0.mlp.{engine}.weight{suffix}"]
                suite.check(bytes(found.data) == expected, f"{name}: {engine}{suffix}")


def one_scale_for_qkv(suite):
    """fp32 weights: one divisor for q, k and v, 2688 / the largest magnitude of all three."""
    run(suite, "qkv", 5, "TP4", "TP1", "fp32:nvfp4", *DENSE, "--set", "run.update=none", "--set",
        "gen.quantiser=te", "--dump-gen", "qkv", "--dump-train", "qkv-train")  # fmt: skip
    stored = safetensors.read(suite.path("qkv", "gen-rank-00000.safetensors"))
    divisors = struct.unpack("<3f", stored["model.layers.0.self_attn.qkv_proj.weight_global_scale"].data)
    suite.check(divisors[0] == divisors[1] == divisors[2], f"{divisors}")
    amax = 0.0
    for rank in range(4):
        for weight, tensor in safetensors.read(suite.path("qkv-train", f"train-rank-{rank:05}.safetensors")).items():
            if weight.endswith("layers.0.self_attention.linear_qkv.weight"):
                amax = max(amax, max(map(abs, struct.unpack(f"<{len(tensor.data) // 4}f", tensor.data))))
    suite.check(amax > 0 and divisors[0] == f32(2688.0 / amax), f"{divisors}, {amax}")


def refused(suite):
    """Cuts through a block are named, and so is a format that is not made on the way."""
    for words, text in (
        (("--precision", "bf16:int4", "--train", "TP4xETP4", *MOE), "cut through a block of 128 columns"),
        (("--precision", "bf16:int4_asym", "--train", "TP1", *DENSE), "is not made on the way"),
        (("--precision", "bf16:nvfp4", "--train", "TP1", *DENSE, "--set", "gen.quantiser=te_16x16"), "te_16x16"),
    ):
        ended = suite.run(0, "plan", "--gen", "TP1", *words)
        suite.check_code(ended, 2, text)
        suite.check(text in ended.err, f"{text}: {ended.err}", ended)


Suite(__doc__).main(any_layout, bits_are_the_quantisers, one_scale_for_qkv, refused)
