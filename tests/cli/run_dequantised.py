"""Quantised checkpoints: synthesised, converted, refitted as they are, and dequantised on load.

    run_dequantised.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER [--record formats/ckpt]

What is dequantised is compared with a second checkpoint, which tests/support/dequantise.py made without quantisation:
every element that train and gen store must be the same. --record: all checkpoints of a folder, in every layout.
"""

import json
import os
import shutil
import struct
import sys
from dataclasses import dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import dequantise  # noqa: E402
import safetensors  # noqa: E402
from job import Suite  # noqa: E402
from oracle_test import unpack  # noqa: E402

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 64,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 64,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 128, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 64,
    "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True, "tie_word_embeddings": False,
    "layer_types": ["full_attention"], "torch_dtype": "bfloat16",
}  # fmt: skip
FSDP = ("--set", "train.trainer=fsdp")
EP_FSDP = (*FSDP, "--set", "train.recipe=automodel")


@dataclass(frozen=True)
class Row:
    config: dict
    quantisation: str
    precision: str  # of both sides, where the weights are dequantised
    train: str
    gen: str
    ranks: int
    options: tuple = ()

    @property
    def name(self):
        return f"{self.config['model_type']}-{self.quantisation.replace(':', '-')}"


ROWS = (
    Row(LLAMA, "nvfp4", "bf16", "TP2", "TP1", 3),
    Row(LLAMA, "nvfp4:modelopt", "fp32:bf16", "PP2", "TP2", 4),
    Row(LLAMA, "fp8_tensor", "bf16", "TP1", "TP2", 3),
    Row(LLAMA, "fp8_channel:modelopt", "bf16", "FSDP2", "TP1", 3, FSDP),
    Row(LLAMA, "int4_asym", "fp32", "FSDP2", "TP2", 4, FSDP),
    Row(MOE, "mxfp4", "bf16", "EP2", "TP2", 4),
    Row(MOE, "fp8", "bf16:mxfp8", "EP2", "TP1", 3),
    Row(MOE, "nvfp4:modelopt", "bf16", "FSDP2xEP2", "TP1", 3, EP_FSDP),
    Row(GPT_OSS, "mxfp4", "fp32", "EP2", "TP1", 3),
)
NVFP4, FP8_TENSOR, INT4_ASYM, MXFP4 = ROWS[0], ROWS[2], ROWS[4], ROWS[8]


def config_of(suite, row):
    folder = suite.path(row.config["model_type"])
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "config.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(row.config, file)
    return path


def synthesise(suite, row):
    folder = suite.path(row.name)
    shutil.rmtree(folder, ignore_errors=True)
    ended = suite.run(0, "synth", config_of(suite, row), folder, "--quantisation", row.quantisation)
    suite.check_code(ended, 0, f"synth {row.name}")
    return folder


def run(suite, row, checkpoint, dumps, precision, *options):
    shutil.rmtree(dumps, ignore_errors=True)
    words = ("--dump-train", os.path.join(dumps, "train"), "--dump-gen", os.path.join(dumps, "gen"), "--force")
    ended = suite.run(
        row.ranks, "run", *checkpoint, "--train", row.train, "--gen", row.gen, "--precision", precision, "--steps", 1,
        "--warmup", 0, *words, *row.options, *options
    )  # fmt: skip
    suite.check_code(ended, 0, f"{row.name} {row.train} {row.gen} {precision}")
    return ended


def equal(suite, what, *folders):
    suite.check_code(suite.run(0, "compare", *folders), 0, what)


def compare_with_plain(suite, row, checkpoint, *options):
    """Train and gen have the same bytes, whether refit or the test takes the quantisation away."""
    dtype = "F32" if row.precision.startswith("fp32") else "BF16"
    plain = suite.path(f"plain-{row.name}-{dtype}")
    shutil.rmtree(plain, ignore_errors=True)
    dequantise.plain(checkpoint, plain, dtype)
    dumps = {name: suite.path(f"dump-{name}") for name in ("quantised", "plain")}
    update = ("--set", "run.update=none", *options)
    ended = run(suite, row, ("--checkpoint", checkpoint), dumps["quantised"], row.precision, *update)
    run(suite, row, ("--checkpoint", plain), dumps["plain"], row.precision, *update)
    for side in ("train", "gen"):
        what = f"{row.name} {row.train} {row.gen} {row.precision}: {side} and the decoded checkpoint"
        equal(suite, what, *(os.path.join(dump, side) for dump in dumps.values()))
    return ended


def dequantised(suite):
    for row in ROWS:
        compare_with_plain(suite, row, synthesise(suite, row))


def converted(suite):
    """Both formats of files hold the same, `inspect` says the format, and config.json alone gives the same weights."""
    for row in (NVFP4, FP8_TENSOR, INT4_ASYM, MXFP4):
        folder = synthesise(suite, row)
        other = folder + "-hdf5"
        shutil.rmtree(other, ignore_errors=True)
        suite.check_code(suite.run(0, "convert", folder, other), 0, f"convert {row.name}")
        equal(suite, f"{row.name}: safetensors and HDF5", folder, other)
        ended = suite.run(0, "inspect", other)
        suite.check(row.quantisation.partition(":")[0] in ended.out, f"inspect: no {row.quantisation}", ended)
        layout = Row(row.config, row.quantisation, "", "TP1", "TP1", 2)
        precision = row.quantisation.partition(":")[0]
        dumps = [suite.path(f"dump-{name}") for name in ("hdf5", "config")]
        sources = (("--checkpoint", other), ("--model", config_of(suite, row)))
        for dump, source in zip(dumps, sources):
            run(suite, layout, source, dump, precision)
        for side in ("train", "gen"):
            equal(suite, f"{row.name}: {side} from HDF5 and config.json", *(os.path.join(d, side) for d in dumps))
        if row is FP8_TENSOR:
            dumps[1] = suite.path("dump-fp8")
            ended = run(suite, layout, ("--checkpoint", folder), dumps[1], "fp8")
            equal(suite, "precision fp8 is the checkpoint's own", *(os.path.join(d, "gen") for d in dumps))
            said = "which precision fp8 is taken for" in " ".join(ended.out.replace("#", " ").split())
            suite.check(said, "it is not said what fp8 is taken for", ended)


def updates(suite):
    """An update changes values and scales, which stay legal, but no shape."""
    for row in (NVFP4, INT4_ASYM):
        precision = row.quantisation
        layout = Row(row.config, precision, "", "TP1", "TP1", 2)
        stored = {}
        for update in ("none", "perturb"):
            dumps = suite.path(f"dump-{update}")
            run(suite, layout, ("--checkpoint", synthesise(suite, row)), dumps, precision, "--set", f"run.update={update}")
            stored[update] = safetensors.read(os.path.join(dumps, "gen", "gen-rank-00000.safetensors"))
        for name, tensor in stored["perturb"].items():
            same = tensor.data == stored["none"][name].data
            suite.check(same == name.endswith("weight_shape"), f"{row.name}: {name} is {'not ' if same else ''}changed")
            if tensor.dtype == "F8_E4M3":
                legal = all(0 < byte < 0x7F for byte in tensor.data)
                suite.check(legal, f"{row.name}: {name} has scales that are not positive")
            if name.endswith("global_scale"):
                numbers = dequantise.numbers(tensor)
                suite.check(len(set(numbers)) == 1 and 2**12 < numbers[0] < 2**15, f"{name}: {numbers}")


def edited(suite, source, name, edit):
    """A copy of a checkpoint with one tensor edited, or left out where `edit` returns nothing."""
    folder = suite.path("edited")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    path = os.path.join(folder, "model.safetensors")
    tensors = safetensors.read(path)
    tensor = edit(tensors[name])
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    safetensors.write(path, tensors)
    return folder


def mistakes(suite):
    """Parts of other shapes and dtypes, missing ones; scales that are no numbers are decoded and noted."""
    source = synthesise(suite, NVFP4)
    module = "model.layers.0.mlp.down_proj."
    half = lambda tensor: safetensors.Tensor(tensor.dtype, (128, 8), tensor.data[: 128 * 8])  # noqa: E731
    as_bytes = lambda tensor: safetensors.Tensor("U8", tensor.shape, tensor.data)  # noqa: E731
    for name, edit, words in (
        ("weight_scale", half, "has shape [128, 8] instead of [128, 16]"),
        ("weight_scale", as_bytes, "has dtype U8 instead of F8_E4M3"),
        ("weight_global_scale", lambda _: None, "is missing"),
    ):
        folder = edited(suite, source, module + name, edit)
        ended = suite.run(2, "run", "--checkpoint", folder, "--train", "TP1", "--gen", "TP1")
        suite.check_code(ended, 2, f"{name}: {words}")
        suite.check(f"{module}{name}" in ended.err and words in ended.err, f"not said: {words}", ended)
    short = lambda tensor: safetensors.Tensor("I32", (2,), tensor.data[:4] + tensor.data[8:12])  # noqa: E731
    folder = edited(suite, synthesise(suite, INT4_ASYM), module + "weight_shape", short)
    layout = Row(LLAMA, "int4_asym", "", "TP1", "TP1", 2)
    run(suite, layout, ("--checkpoint", folder), suite.path("dump-short"), "int4_asym")
    stored = safetensors.read(suite.path("dump-short", "gen", "gen-rank-00000.safetensors"))[module + "weight_shape"]
    suite.check(stored.data == struct.pack("<2q", 128, 256), f"weight_shape is {stored}")
    infinite = lambda tensor: safetensors.Tensor("F32", tensor.shape, struct.pack("<f", 0.0))  # noqa: E731
    folder = edited(suite, source, module + "weight_global_scale", infinite)
    ended = suite.run(2, "run", "--checkpoint", folder, "--train", "TP1", "--gen", "TP1", "--steps", 1, "--warmup", 0)
    suite.check_code(ended, 0, "a divisor of zero")
    suite.check("NaN or Inf in" in ended.out + ended.err, "a divisor of zero is not noted", ended)
    large = lambda tensor: safetensors.Tensor("F32", tensor.shape, struct.pack("<f", 1e-4))  # noqa: E731
    folder = edited(suite, source, module + "weight_global_scale", large)
    ended = suite.run(2, "run", "--checkpoint", folder, "--train", "TP1", "--gen", "TP1", "--steps", 1, "--warmup", 0,
                      "--precision", "fp16")  # fmt: skip
    suite.check_code(ended, 0, "values beyond fp16")
    suite.check("became infinite as F16 while loading from quantised values" in ended.err, "overflow is not noted", ended)
    folder = suite.path("packed-mxfp4")
    ended = suite.run(0, "synth", config_of(suite, ROWS[5]), folder, "--quantisation", "mxfp4", "--experts", "packed")
    suite.check_code(ended, 2, "experts in one tensor in mxfp4")
    suite.check("experts in one tensor have no form in mxfp4" in ended.err, "it is not said why", ended)


FEW = {  # recorded checkpoint: layout
    "gpt_oss_i96_mxfp4": ("TP2", "TP1", 3, ()),
    "llama256_awq": ("TP2", "TP1", 3, ()),
    "llama256_gptq": ("FSDP2", "TP1", 3, FSDP),
    "llama_fbgemm_fp8": ("TP1", "TP1", 2, ()),
    "qwen3_moe_ct_fp8_channel": ("EP2", "TP1", 3, ()),
}


def layouts_of(config):
    """Layouts of a recorded checkpoint, all of them."""
    layouts = [("TP1", "TP1", 2, ()), ("TP2", "TP2", 4, ()), ("FSDP2", "TP1", 3, FSDP)]
    if "num_experts" in config or "num_local_experts" in config:
        layouts += [("EP2", "TP2", 4, ()), ("FSDP2xEP2", "TP1", 3, EP_FSDP)]
    if config["num_hidden_layers"] > 1:
        layouts.append(("PP2", "TP1", 3, ()))
    return layouts


def with_indices(suite, source):
    """A copy with GPTQ's g_idx, of which tests/data has zeros, as it was: the group of each of 256 columns."""
    folder = suite.path("record-" + os.path.basename(source))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    path = os.path.join(folder, "model.safetensors")
    tensors = safetensors.read(path)
    for name, tensor in tensors.items():
        if name.endswith(".g_idx"):
            data = struct.pack("<256i", *(column // 128 for column in range(256)))
            tensors[name] = safetensors.Tensor(tensor.dtype, tensor.shape, data)
    safetensors.write(path, tensors)
    return folder


def recorded(suite):
    """Checkpoints that libraries wrote: some of tests/data, or all of a folder in every layout (--record FOLDER)."""
    whole = "--record" in suite.rest
    if whole:
        folder = suite.rest[suite.rest.index("--record") + 1]
    else:
        data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "format_layouts.tar.xz")
        folder = os.path.join(unpack(data, suite.path("record")), "ckpt")
    for name in sorted(os.listdir(folder) if whole else FEW):
        with open(os.path.join(folder, name, "config.json"), encoding="utf-8") as file:
            layouts = layouts_of(json.load(file)) if whole else [FEW[name]]
        for precision in ("bf16", "fp32") if whole else ("bf16",):
            for train, gen, ranks, options in layouts:
                row = Row({"model_type": name}, "record", precision, train, gen, ranks, options)
                source = os.path.join(folder, name)
                compare_with_plain(suite, row, source if whole else with_indices(suite, source))


Suite(__doc__).main(dequantised, converted, updates, mistakes, recorded)
