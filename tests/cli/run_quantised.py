"""Weights that are quantised on the way: bf16 or fp32 trains, gen stores FP8 with blocks of 128 x 128, or MXFP8.

    run_quantised.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
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


def run(suite, name, ranks, train, gen, precision, *options):
    """The result of two refits that must bring every byte, with a small KL."""
    ended = suite.run(
        ranks, "run", "--train", train, "--gen", gen, "--precision", precision, "--steps", 2, "--warmup", 0, "--force",
        "--json", f"{name}.json", *options
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    found = result["verification"]
    suite.check(found["elements_wrong"] == 0 and found["refits"] == 2, f"{name}: {found}", ended)
    suite.check(0 < found["kl"]["mean"] < 0.011 and found["kl"]["max"] < 0.06, f"{name}: {found['kl']}", ended)
    return result


def equal_dumps(suite, a, b):
    suite.check_code(suite.run(0, "compare", a, b), 0, f"compare {a} {b}")


def executors(suite):
    """Whatever the executor, the path and the train layout, gen gets the same bytes and scales.

    ETP4 cuts the experts' 256 rows within blocks of 128, whose maxima the ranks then share.
    """
    for precision, model in (("bf16:fp8", DENSE), ("bf16:mxfp8", DENSE), ("fp32:fp8", MOE)):
        name = f"{model[1]}-{precision.replace(':', '-')}"
        names = []
        cut = "TP4" if model == DENSE else "TP4xETP4"
        for executor, bulk, train, ranks in (
            ("direct", "all", "TP1", 3), ("direct", "ffn", cut, 6), ("p2p", "all", cut, 6), ("p2p", "ffn", "TP1xPP2", 4),
            ("golden", "all", "TP2xPP2", 6), ("golden", "whitelist", cut, 6),
        ):  # fmt: skip
            names.append(f"{name}-{executor}-{bulk}")
            words = ("--executor", executor, "--bulk", bulk, "--dump-gen", names[-1])
            run(suite, names[-1], ranks, train, "TP2", precision, *model, *words)
        for other in names[1:]:
            equal_dumps(suite, names[0], other)


def wire_is_halved(suite):
    """Quantised at the sender: what travels is what gen stores."""
    full = run_plain(suite, "wire-bf16")
    half = run(suite, "wire-fp8", 2, "TP1", "TP1", "bf16:fp8", *DENSE)
    suite.check(half["payload"] == full["payload"], f"payload: {half['payload']}, {full['payload']}")
    ratio = half["wire"]["bytes"] / full["wire"]["bytes"]
    suite.check(0.5 < ratio < 0.75, f"wire: {ratio} of bf16's (embedding and head stay bf16)")


def run_plain(suite, name):
    ended = suite.run(2, "run", *DENSE, "--train", "TP1", "--gen", "TP1", "--steps", 1, "--warmup", 0, "--force",
                      "--json", f"{name}.json")  # fmt: skip
    suite.check_code(ended, 0, name)
    return suite.result(f"{name}.json", ended)


def f32(value):
    """A double rounded to a float32."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def e4m3(value):
    """The byte of a finite float in -448..448, rounded to nearest even."""
    sign = 0x80 if math.copysign(1.0, value) < 0 else 0
    magnitude = abs(value)
    exponent = max(math.frexp(magnitude)[1] - 1, -6) if magnitude > 0 else -6
    digits = round(math.ldexp(magnitude, 3 - exponent))  # Python rounds halves to even
    return sign | ((exponent + 6) * 8 + digits)


def nemo_rl(rows):
    """(bytes, scales) of a matrix, block by block: NeMo-RL's cast_tensor_to_fp8_blockwise."""
    out = [bytearray(len(row)) for row in rows]
    scales = []
    for top in range(0, len(rows), 128):
        for left in range(0, len(rows[0]), 128):
            block = [row[left : left + 128] for row in rows[top : top + 128]]
            amax = max(abs(value) for row in block for value in row)
            scale = f32(448.0 * f32(1.0 / amax)) if amax > 0 else 1.0
            scales.append(f32(1.0 / scale))
            for r, row in enumerate(block):
                for c, value in enumerate(row):
                    out[top + r][left + c] = e4m3(min(max(f32(value * scale), -448.0), 448.0))
    return b"".join(bytes(row) for row in out), struct.pack(f"<{len(scales)}f", *scales)


def mxfp8(rows):
    """The same of vLLM's MXFP8: 32 columns of a row share a power of two."""
    out, scales = bytearray(), bytearray()
    for row in rows:
        for left in range(0, len(row), 32):
            block = row[left : left + 32]
            amax = max(abs(value) for value in block)
            exponent = math.ceil(f32(math.log2(f32(max(amax, 2.0**-126) / 448.0))))
            scales.append(min(max(exponent + 127, 0), 254))
            out += bytes(e4m3(math.ldexp(value, -exponent)) for value in block)
    return bytes(out), bytes(scales)


def bits_are_the_quantisers(suite):
    """Recomputed here, value by value, from the checkpoint."""
    folder = suite.path("checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    suite.check_code(suite.run(0, "synth", DENSE[1], folder, "--layers", 1), 0, "synth")
    checkpoint = safetensors.read(os.path.join(folder, "model.safetensors"))
    for precision, suffix, quantise in (("bf16:fp8", "_scale_inv", nemo_rl), ("bf16:mxfp8", "_scale", mxfp8)):
        name = f"bits-{precision.replace(':', '-')}"
        run(suite, name, 5, "TP4", "TP1", precision, "--checkpoint", folder, "--set", "run.update=none", "--dump-gen", name)
        stored = safetensors.read(suite.path(name, "gen-rank-00000.safetensors"))
        for module in ("self_attn.o_proj", "mlp.down_proj"):
            weight = f"model.layers.0.{module}.weight"
            tensor = checkpoint[weight]
            suite.check(tensor.dtype == "BF16", f"{weight} is {tensor.dtype}")
            bits = struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data)
            values = [struct.unpack("<f", struct.pack("<I", b << 16))[0] for b in bits]
            columns = tensor.shape[1]
            rows = [values[r * columns : (r + 1) * columns] for r in range(tensor.shape[0])]
            expected, scales = quantise(rows)
            suite.check(bytes(stored[weight].data) == expected, f"{precision}: bytes of {weight}")
            suite.check(bytes(stored[weight + suffix].data) == scales, f"{precision}: scales of {weight}")


def quantisers(suite):
    """Each has bits of its own; all are close to the weights."""
    prints = {}
    for name in ("nemo_rl", "nemo_rl_pow2", "te", "te_pow2", "vllm", "vllm_ue8m0"):
        result = run(suite, name, 6, "TP4", "TP2", "bf16:fp8", *DENSE, "--set", f"gen.quantiser={name}")
        suite.check(result["settings"]["quantiser"] == name, f"{name}: {result['settings']}")
        prints[name] = result["verification"]["fingerprint_gen"]
    suite.check(len({prints["nemo_rl"], prints["nemo_rl_pow2"], prints["vllm"]}) == 3, f"{prints}")
    ended = suite.run(0, "plan", *DENSE, "--train", "TP1", "--gen", "TP1", "--precision", "bf16:fp8", "--set",
                      "gen.quantiser=mxfp8")  # fmt: skip
    suite.check_code(ended, 2, "a quantiser of the other kind")


# Executor, train, gen, ranks, options.
PLACES = (
    ("golden", "TP1", "TP2", 3, ()),
    ("p2p", "TP1", "TP2", 3, ()),
    ("p2p", "TP2", "TP2", 4, ("--bulk", "ffn")),  # qkv_proj is misc
    ("direct", "TP1", "TP2", 3, ()),
    ("direct", "TP2", "TP2", 2, ("--colocated",)),
    ("p2p", "TP2", "TP2", 2, ("--colocated",)),
    ("golden", "TP2", "TP1", 3, ()),
    ("p2p", "TP2", "TP1", 3, ()),
    ("direct", "TP2", "TP1", 3, ()),
    ("golden", "TP1", "TP1xDP2", 3, ()),
    ("direct", "TP1", "TP1xDP2", 3, ("--fan-out", "on")),
    ("direct", "TP1", "TP1xDP2", 3, ("--fan-out", "off")),
)


def every_place_of_a_scale(suite):
    """phi-4's qkv_proj and gate_up_proj are one weight each, with one scale, which vLLM stores three and two times."""
    for precision in ("bf16:nvfp4", "bf16:fp8_tensor"):
        first = {}  # dump, by gen
        for i, (executor, train, gen, ranks, options) in enumerate(PLACES):
            what = f"{precision} {executor} {train} -> {gen} {' '.join(options)}"
            dump = f"places-{precision.replace(':', '-')}-{i}"
            ended = suite.run(
                ranks, "run", "--model", "phi-4-small", "--layers", 1, "--train", train, "--gen", gen, "--precision", precision,
                "--executor", executor, *options, "--steps", 2, "--warmup", 0, "--dump-gen", dump, "--force", "--json", "places.json"
            )  # fmt: skip
            suite.check_code(ended, 0, what)
            found = suite.result("places.json", ended)["verification"]
            suite.check(found["elements_wrong"] == 0, f"{what}: {found}", ended)
            equal_dumps(suite, first.setdefault(gen, dump), dump)
            scales = safetensors.read(suite.path(dump, "gen-rank-00000.safetensors"))
            for part, places in (("qkv_proj", 3), ("gate_up_proj", 2)):
                repeated = [t for name, t in scales.items() if part in name and "scale" in name and t.shape == (places,)]
                suite.check(repeated, f"{what}: {part} has no parameter of {places} scales")
                for tensor in repeated:
                    values = struct.unpack(f"<{places}f", tensor.data)
                    suite.check(values[0] > 0 and len(set(values)) == 1, f"{what}: {part}: {values}")


Suite(__doc__).main(executors, wire_is_halved, bits_are_the_quantisers, quantisers, every_place_of_a_scale)
