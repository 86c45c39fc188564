"""Scales of an FP8 KV cache: from a calibration file, from a checkpoint or synthetic, to the buffers that attention uses.

    run_kv_scales.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import json
import os
import struct
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "fp8.tar.xz")
DENSE = ("--model", "qwen3-4b-small", "--layers", 2)
HYBRID = ("--model", "nemotron-3-nano-30b-a3b-small", "--layers", 6)  # MEM*E-: layer 3 has attention


def run(suite, name, ranks, train, gen, precision, *options, cache="fp8"):
    """The result of two refits that must bring every scale."""
    ended = suite.run(
        ranks, "run", "--train", train, "--gen", gen, "--precision", precision, "--steps", 2, "--warmup", 0, "--force",
        "--json", f"{name}.json", "--dump-gen", name, "--set", f"gen.kv_cache_dtype={cache}", *options
    )  # fmt: skip
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    suite.check(result["verification"]["elements_wrong"] == 0, f"{name}: {result['verification']}", ended)
    return result


def write(suite, name, scales):
    with open(suite.path(name), "w", encoding="utf-8") as file:
        json.dump(scales, file)
    return suite.path(name)


def calibration(layers, with_q=True):
    scales = {}
    for layer in layers:
        module = f"model.layers.{layer}.self_attn"
        scales |= {f"{module}.k_scale": 0.0499 + layer, f"{module}.v_scale": 0.12345 + layer}
        if with_q:
            scales[f"{module}.attn.q_scale"] = 0.25 + layer
    return scales


def scales_of(suite, name, rank=0):
    """Parameters and buffers of a dump by the last words of their names, "layers.0._k_scale"."""
    found = {}
    for key, tensor in safetensors.read(suite.path(name, f"gen-rank-{rank:05}.safetensors")).items():
        if not key.endswith("_scale") or ".attn." not in key:
            continue
        suite.check(tuple(tensor.shape) == (), f"{key} has shape {tensor.shape}")
        data = bytes(tensor.data)
        suite.check(tensor.dtype == ("F32" if "._" in key else "BF16"), f"{key} is {tensor.dtype}")
        value = struct.unpack("<f", data if len(data) == 4 else b"\0\0" + data)[0]
        found[f"layers.{key.split('.layers.')[1].split('.')[0]}.{key.rsplit('.', 1)[1]}"] = value
    return found


def bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.unpack("<f", struct.pack("<I", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16))[0]


def expected_scales(calibrated):
    """As parameters, in bfloat16, and as buffers; without q those of q are 1."""
    expected = {}
    for key, value in calibrated.items():
        layer, name = key.split(".")[2], key.rsplit(".", 1)[1]
        expected[f"layers.{layer}.{name}"] = expected[f"layers.{layer}._{name}"] = bf16(value)
        expected.setdefault(f"layers.{layer}._q_scale", 1.0)
    return expected


def calibrated(suite):
    """Whatever executor and path, every gen rank has the file's values, rounded, and attention uses them."""
    full, without_q = calibration(range(2)), calibration(range(2), with_q=False)
    for name, scales, ranks, train, gen, precision, options in (
        ("direct", full, 4, "TP2", "TP2", "fp8", ("--executor", "direct")),
        ("p2p", without_q, 4, "TP1xPP2", "TP2", "bf16:fp8", ("--executor", "p2p", "--bulk", "whitelist")),
        ("golden", full, 3, "TP1", "TP2", "mxfp8", ("--executor", "golden", "--bulk", "ffn")),
    ):
        file = write(suite, f"{name}-scales.json", scales)
        words = ("--set", f"gen.kv_scales={file}", "--set", "run.update=none", *DENSE, *options)
        result = run(suite, name, ranks, train, gen, precision, *words)
        for rank in (0, 1):
            found = scales_of(suite, name, rank)
            suite.check(found == expected_scales(scales), f"{name}: gen rank {rank} has {found}")
        note = " ".join(result["notes"])
        suite.check("as BF16 they change by 0.288 % at most" in note and "k_scale from 1.0499 to 1.046875" in note, f"{name}: {note}")
        suite.check(result["settings"]["kv_scales"] == file, f"{name}: {result['settings']}")


def hybrid(suite):
    """Only the layer with attention has scales, by the engine's own name; entries of other layers are ignored."""
    scales = calibration(range(6))
    words = ("--set", f"gen.kv_scales={write(suite, 'hybrid-scales.json', scales)}", "--set", "run.update=none", *HYBRID)
    run(suite, "hybrid", 2, "TP1", "TP1", "mxfp8", *words)
    own = {key: value for key, value in scales.items() if ".3." in key}
    suite.check(scales_of(suite, "hybrid") == expected_scales(own), f"hybrid: {scales_of(suite, 'hybrid')}")
    names = safetensors.read(suite.path("hybrid", "gen-rank-00000.safetensors"))
    suite.check("model.layers.3.mixer.attn._k_scale" in names, "hybrid: the engine's name of layer 3's buffer")


def updated(suite):
    """Scales change before every refit like weights, whether synthetic or calibrated; they are on misc, behind weights."""
    words = (*DENSE, "--set", "run.seed=7")
    plain = run(suite, "synthetic", 2, "TP1", "TP1", "fp8", *words)
    again = run(suite, "synthetic-2", 2, "TP1", "TP1", "fp8", *words, "--bulk", "ffn")
    suite.check(scales_of(suite, "synthetic") == scales_of(suite, "synthetic-2"), "synthetic scales depend on the path")
    suite.check(plain["payload"]["misc_bytes"] == 2 * 3 * 4, f"payload: {plain['payload']}")
    suite.check(again["payload"]["total_bytes"] == plain["payload"]["total_bytes"], f"payload: {again['payload']}")
    scales = calibration(range(2))
    run(suite, "updated", 2, "TP1", "TP1", "fp8", *DENSE, "--set", f"gen.kv_scales={write(suite, 'c.json', scales)}")
    found, before = scales_of(suite, "updated"), expected_scales(scales)
    changed = [key for key in before if found[key] != before[key] and abs(found[key] / before[key] - 1) < 0.06]
    suite.check(len(changed) >= len(before) // 2, f"after two updates: {found}")


def checkpoints(suite):
    """What vLLM loads of recorded checkpoints, and what its attention makes of it."""
    folder = suite.path("record")
    with tarfile.open(RECORD) as archive:
        names = [name for name in archive.getnames() if "ckpt/qwen3_fp8_kv" in name and "kvrep" not in name]
        archive.extractall(folder, [archive.getmember(name) for name in names])
    expected = {
        "qwen3_fp8_kv": {"_q": (0.5, 0.75), "_k": (0.0498046875, 0.30078125), "_v": (0.12353515625, 0.373046875)},
        "qwen3_fp8_kv_modelopt": {"_q": (1, 1), "_k": (0.25, 0.5), "_v": (0.125, 0.375)},
        "qwen3_fp8_kv_single": {"_q": (1, 1), "_k": (0.25, 0.5), "_v": (0.25, 0.5)},
    }
    for name, buffers in expected.items():
        path = os.path.join(folder, "fp8", "ckpt", name)
        run(suite, name, 3, "TP1", "TP2", "fp8", "--checkpoint", path, "--set", "run.update=none")
        found = scales_of(suite, name, 1)
        for buffer, values in buffers.items():
            for layer, value in enumerate(values):
                suite.check(found.get(f"layers.{layer}.{buffer}_scale") == value, f"{name}: {found}")
    # A calibration takes the place of the checkpoint's.
    file = write(suite, "replaced-scales.json", calibration(range(2)))
    words = ("--set", f"gen.kv_scales={file}", "--set", "run.update=none")
    run(suite, "replaced", 2, "TP1", "TP1", "fp8", "--checkpoint", os.path.join(folder, "fp8/ckpt/qwen3_fp8_kv_single"), *words)
    suite.check(scales_of(suite, "replaced") == expected_scales(calibration(range(2))), "a calibration of a checkpoint")
    # Without an FP8 cache they are weights like others, and nothing is finalised.
    path = os.path.join(folder, "fp8/ckpt/qwen3_fp8_kv")
    run(suite, "auto", 2, "TP1", "TP1", "fp8", "--checkpoint", path, cache="auto")
    suite.check(not any("._" in key for key in scales_of(suite, "auto")), f"auto: {scales_of(suite, 'auto')}")


def mistakes(suite):
    """Bad calibrations are refused, with file, layer and what is wrong."""
    good = calibration(range(2))
    k1 = "model.layers.1.self_attn.k_scale"
    for name, text, words in (
        ("none", None, ["none.json: there is no such file"]),
        ("empty", "{}", ["layers.0.self_attn.k_scale is missing: layer 0 has attention", "layers.1.self_attn.v_scale is"]),
        ("text", "scales", ["is not valid JSON"]),
        ("list", "[1]", ["is not a JSON object"]),
        ("layer", json.dumps({k: v for k, v in good.items() if k != k1}), [f"{k1} is missing: layer 1"]),
        ("q", json.dumps({k: v for k, v in good.items() if not k.endswith("0.self_attn.attn.q_scale")}),
         ["layers.0.self_attn.attn.q_scale is missing: layer 0 has attention"]),
        ("zero", json.dumps(good | {k1: 0}), [f"zero.json: {k1} must be a positive number that bfloat16 can hold, not 0"]),
        ("minus", json.dumps(good | {k1: -1}), ["not -1"]),
        ("huge", json.dumps(good | {k1: 3.4e38}), ["must be a positive number that bfloat16 can hold"]),
        ("tiny", json.dumps(good | {k1: 1e-40}), ["must be a positive number that bfloat16 can hold"]),
        ("nan", json.dumps(good).replace("1.0499", "NaN"), [f"{k1} must be a number"]),
        ("word", json.dumps(good | {k1: "0.5"}), [f"{k1} must be a number, not \"0.5\""]),
        ("name", json.dumps(good | {"model.layers.0.mlp.k_scale": 1}), ["is no scale of a KV cache; names are like"]),
        ("beyond", json.dumps(good | {"model.layers.99.self_attn.k_scale": 1}), []),  # --layers cuts the model
    ):
        if text is not None:
            with open(suite.path(f"{name}.json"), "w", encoding="utf-8") as file:
                file.write(text)
        ended = suite.run(0, "plan", *DENSE, "--train", "TP1", "--gen", "TP1", "--precision", "fp8", "--set",
                          "gen.kv_cache_dtype=fp8", "--set", f"gen.kv_scales={name}.json")  # fmt: skip
        suite.check_code(ended, 2 if words else 0, name)
        for word in words:
            suite.check(word in ended.err, f"{name}: {word}", ended)
    for options, word in (
        (("deepseek-v3-small", "--precision", "fp8"), "a deepseek_v3 model has none; use auto"),
        (("qwen3-4b-small", "--precision", "bf16"), "gen.kv_cache_dtype: means nothing with gen.precision = \"bf16\""),
        (("qwen3-4b-small", "--precision", "fp8", "--inject", "stale-kv-scales"), "it needs gen.kv_cache_dtype = fp8"),
    ):
        cache = () if "--inject" in options else ("--set", "gen.kv_cache_dtype=fp8")
        ended = suite.run(0, "plan", "--train", "TP1", "--gen", "TP1", *cache, "--model", *options)
        suite.check_code(ended, 2, word)
        suite.check(word in ended.err, word, ended)
    file = write(suite, "good.json", good)
    ended = suite.run(0, "plan", *DENSE, "--train", "TP1", "--gen", "TP1", "--precision", "fp8", "--set",
                      f"gen.kv_scales={file}")  # fmt: skip
    suite.check_code(ended, 2, "a calibration without an FP8 cache")
    suite.check("gen.kv_scales: means nothing with gen.kv_cache_dtype = \"auto\"" in ended.err, "auto", ended)


Suite(__doc__).main(calibrated, hybrid, updated, checkpoints, mistakes)
