"""LoRA adapters: layouts against what vLLM itself held, merged weights against exact arithmetic, and what is refused.

    run_adapters.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER ADAPTERS.tar.xz
"""

import fractions
import json
import os
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402
from oracle_test import unpack  # noqa: E402
from results import check_result  # noqa: E402
from run_mistakes import refused  # noqa: E402

MODEL = ("--model", "qwen3-8b-small", "--layers", 2)
ALL = ("golden", "p2p", "direct")
# The train side of each case of the record.
RECORDED = {
    "qwen3-TP1": ("TP1", ()),
    "qwen3-TP2": ("TP2", ()),
    "qwen3-TP4": ("TP2xPP2", ()),
    "qwen3-some-TP1": ("TP2", ()),
    "qwen3-some-TP2": ("FSDP3", ("--set", "train.trainer=fsdp")),
    "qwen3-scaled-TP2": ("TP2", ("--executor", "p2p")),
    "phi3-TP1": ("TP4", ()),
    "phi3-TP2": ("TP1", ("--bulk", "ffn")),
    "qwen3_moe-TP1": ("FSDP2", ("--set", "train.trainer=fsdp")),
    "qwen3_moe-TP2": ("FSDP2", ("--set", "train.trainer=fsdp")),
    "qwen3_moe-TP2xEP2": ("FSDP2", ("--set", "train.trainer=fsdp")),
}


def ranks_of(layout):
    ranks = 1
    for axis in layout.split("x"):
        ranks *= 1 if axis.startswith("EP") else int(axis.lstrip("TPDFSH"))
    return ranks


def record(suite):
    (archive,) = suite.rest
    return unpack(archive, os.path.dirname(suite.work))


def run(suite, name, train, gen, *arguments, refits=1, code=0):
    shutil.rmtree(suite.path(name), ignore_errors=True)
    ended = suite.run(
        ranks_of(train) + ranks_of(gen), "run", "--train", train, "--gen", gen, "--steps", refits, "--warmup", 0, "--force",
        "--json", f"{name}.json", "--dump-gen", name, "--dump-train", f"{name}-train", *arguments,
    )  # fmt: skip
    suite.check_code(ended, code, name)
    return ended, suite.result(f"{name}.json", ended)


def recorded_layouts(suite):
    """Every buffer of the adapter on every rank, with its padding; what vLLM has beside them is empty."""
    folder = record(suite)
    for case, (train, arguments) in RECORDED.items():
        adapter = os.path.join(folder, "adapters", case.rsplit("-", 1)[0])
        with open(os.path.join(adapter, "config.json"), encoding="utf-8") as file:
            precision = {"float32": "fp32", "bfloat16": "bf16"}[json.load(file)["dtype"]]
        gen = case.rsplit("-", 1)[1]
        ended, _ = run(suite, case, train, gen, "--model", os.path.join(adapter, "config.json"), "--adapters", adapter,
                       "--precision", precision, "--set", "run.update=none", *arguments)  # fmt: skip
        for rank in range(ranks_of(gen)):
            found = safetensors.read(suite.path(case, f"gen-rank-{rank:05}.safetensors"))
            held = safetensors.read(os.path.join(folder, "vllm", case, f"rank{rank}.safetensors"))
            compared = 0
            for name, tensor in held.items():
                mine = found.get(name)
                if mine is None:
                    suite.check(not any(tensor.data), f"{case}: rank {rank} lacks {name}", ended)
                    continue
                shape = tuple(tensor.shape[1:] if tensor.shape[1] > 1 or "experts" in name else tensor.shape[2:])
                suite.check((mine.shape, mine.dtype) == (shape, tensor.dtype), f"{case}: {name}: {mine.shape} {mine.dtype}, vLLM {shape}")
                suite.check(mine.data == tensor.data, f"{case}: rank {rank}: {name} differs from vLLM's")
                compared += 1
            lora = sum(1 for name in found if "_stacked." in name)
            suite.check(0 < compared == lora, f"{case}: rank {rank}: {compared} of {lora} buffers are vLLM's")


def values(tensor):
    """The values of a tensor as Python floats."""
    if tensor.dtype == "F32":
        return struct.unpack(f"<{len(tensor.data) // 4}f", tensor.data)
    halves = struct.unpack(f"<{len(tensor.data) // 2}H", tensor.data)
    return struct.unpack(f"<{len(halves)}f", b"".join(struct.pack("<I", half << 16) for half in halves))


def rounded_to_bf16(value):
    """The bfloat16 nearest to an exact value, as its bits; ties to even."""
    near = struct.unpack("<I", struct.pack("<f", float(value)))[0] >> 16
    candidates = [near + i for i in (-1, 0, 1)]
    exact = [abs(fractions.Fraction(struct.unpack("<f", struct.pack("<I", bits << 16))[0]) - value) for bits in candidates]
    least = min(exact)
    best = [bits for bits, error in zip(candidates, exact) if error == least]
    return best[0] if len(best) == 1 or best[0] % 2 == 0 else best[1]


def merged_arithmetic(suite):
    """W + s B A in exact arithmetic, of weights that are cut along rows, along columns, and by both sides otherwise."""
    arguments = (*MODEL, "--set", "adapters.rank=6", "--set", "adapters.alpha=11", "--set", "adapters.send=merged")
    run(suite, "merged", "TP1", "TP1", *arguments, refits=2)
    train = safetensors.read(suite.path("merged-train", "train-rank-00000.safetensors"))
    gen = safetensors.read(suite.path("merged", "gen-rank-00000.safetensors"))
    suite.check(not any("lora" in name for name in gen), "merged: gen has adapters")
    for module, name in (("self_attention.linear_proj", "self_attn.o_proj"), ("mlp.linear_fc2", "mlp.down_proj")):
        prefix = f"decoder.layers.1.{module}"
        weight, a, b = (train[f"{prefix}.{part}weight"] for part in ("", "adapter.linear_in.", "adapter.linear_out."))
        (rows, columns), rank = weight.shape, a.shape[0]
        w, a, b = values(weight), values(a), values(b)
        found = struct.unpack(f"<{rows * columns}H", gen[f"model.layers.1.{name}.weight"].data)
        for i in range(0, rows * columns, 37):
            row, column = divmod(i, columns)
            product = sum(fractions.Fraction(b[row * rank + k]) * fractions.Fraction(a[k * columns + column]) for k in range(rank))
            exact = fractions.Fraction(w[i]) + fractions.Fraction(11, 6) * product
            if not suite.check(found[i] == rounded_to_bf16(exact), f"merged: {name} [{row}, {column}] is not rounded once"):
                return


def merged_layouts(suite):
    """Merged weights do not depend on who merges them: gen holds the same bits whatever the trainer's cuts are."""
    arguments = (*MODEL, "--set", "adapters.rank=4", "--set", "adapters.alpha=3", "--set", "adapters.send=merged")
    first = None
    for number, (train, more) in enumerate(
        (
            ("TP1", ()),
            ("TP2xPP2", ("--executor", "p2p")),
            ("TP4", ("--executor", "golden")),
            ("FSDP3", ("--set", "train.trainer=fsdp")),
            ("TP2", ("--set", "adapters.only=true")),
        )
    ):
        name = f"merged-{number}"
        only = "adapters.only=true" in more
        _, result = run(suite, name, train, "TP2", *arguments, "--set", "run.update=none", *more)
        suite.check(result["verification"]["elements_wrong"] == 0, f"{name}: {result['verification']}")
        suite.check("adapt" in result["phases"], f"{name}: no phase adapt")
        held = [safetensors.read(suite.path(name, f"gen-rank-{r:05}.safetensors")) for r in range(2)]
        first = first or held
        suite.check(held == first, f"{name}: gen holds other bits than merged by {'all weights' if only else 'TP1'}")
    _, result = run(suite, "merged-fp8", "TP2", "TP2", *arguments, "--precision", "bf16:fp8", refits=2)
    suite.check(result["verification"]["elements_wrong"] == 0, "merged, then quantised")
    run(suite, "merged-sglang", "TP2", "TP2", *arguments, "--set", "gen.engine=sglang")


def fused_and_experts(suite):
    """Pairs that share an A, experts over EP and DP, GQA with replicated KV heads, and every executor."""
    arguments = ("--set", "adapters.rank=4", "--set", "adapters.alpha=6")
    for executor in ALL:
        ended, result = run(suite, f"fused-{executor}", "TP2", "TP4", *MODEL, *arguments, "--set", "train.lora=fused",
                            "--executor", executor)  # fmt: skip
        check_result(suite, ended, result, "all", f"fused, {executor}", refits=1)
    moe = ("--model", "qwen3-30b-a3b-small", "--layers", 1)
    for send in ("apart", "merged"):
        ended, result = run(suite, f"experts-{send}", "TP2xEP2", "TP2xDP2", *moe, *arguments, "--set", f"adapters.send={send}")
        suite.check(result["verification"]["elements_wrong"] == 0, f"experts, {send}", ended)
        ended, result = run(suite, f"experts-ep-{send}", "EP2xDP2", "TP2xEP2", *moe, *arguments, "--set", f"adapters.send={send}")
        suite.check(result["verification"]["elements_wrong"] == 0, f"experts over EP, {send}", ended)


def adapters_only(suite):
    """The base comes from the checkpoint, once; refits bring adapters alone, and the proof covers both."""
    arguments = (*MODEL, "--set", "adapters.rank=4")
    _, whole = run(suite, "whole", "TP2", "TP4", *arguments, refits=2)
    _, only = run(suite, "only", "TP2", "TP4", *arguments, "--set", "adapters.only=true", refits=2)
    suite.check(only["wire"]["bytes"] * 10 < whole["wire"]["bytes"], f"only: {only['wire']} of {whole['wire']}")
    for key in ("tensors", "elements"):
        suite.check(only["verification"][key] == whole["verification"][key], f"only: {key} of the proof")
    before = safetensors.read(suite.path("only", "gen-rank-00000.safetensors"))
    after = safetensors.read(suite.path("whole", "gen-rank-00000.safetensors"))
    suite.check(all(before[name] == after[name] for name in before if "_stacked." in name), "only: other adapters")
    suite.check(any(before[name] != after[name] for name in before if "_stacked." not in name), "only: the base is trained")
    tied = ("--model", "llama-3.2-1b-small", "--layers", 2, "--set", "adapters.rank=4", "--set", "adapters.only=true")
    _, result = run(suite, "only-tied", "TP2", "TP2", *tied)
    suite.check(result["verification"]["elements_wrong"] == 0, "only: a tied model")


def bugs(suite):
    for ranks, bug in ((6, "B66-adapter-without-base"), (3, "B67-merged-rounded-twice")):
        for variant in ((), ("--fixed",)):
            ended = suite.run(ranks, "run", bug, *variant)
            suite.check_code(ended, 0, f"{bug} {variant}")
    arguments = (*MODEL, "--set", "adapters.rank=4", "--set", "adapters.send=merged", "--inject", "B66-adapter-without-base")
    run(suite, "stale-merged", "TP2", "TP4", *arguments, refits=2, code=1)


def refusals(suite):
    layouts = ("--train", "TP2", "--gen", "TP2")
    rank = ("--set", "adapters.rank=4")
    base = (*MODEL, *layouts)
    refused(suite, "alpha nan", (*base, *rank, "--set", "adapters.alpha=nan"), ("needs a number from 0",))
    refused(suite, "keys without a rank", (*base, "--set", "adapters.only=true"), ("adapters.only: means nothing",))
    refused(suite, "target", (*base, *rank, "--set", 'adapters.targets=["q_porj"]'), ("did you mean q_proj?",))
    refused(suite, "rank", (*base, "--set", "adapters.rank=99999"), ("adapters.rank: 99999 is more than",))
    refused(suite, "odd rank", (*base, "--set", "adapters.rank=3"), (), lines=None)
    refused(suite, "sglang", (*base, *rank, "--set", "gen.engine=sglang"), ('use adapters.send = "merged"',))
    fp8 = ("--precision", "bf16:fp8", "--set", "adapters.only=true")
    refused(suite, "only, quantised", (*base, *rank, *fp8), ("needs engines with the precision of the checkpoint",))
    adapter = suite.path("adapter")
    shutil.rmtree(adapter, ignore_errors=True)
    shutil.copytree(os.path.join(record(suite), "adapters", "qwen3"), adapter)
    file = os.path.join(adapter, "adapter_model.safetensors")
    tensors = safetensors.read(file)
    model = ("--model", os.path.join(adapter, "config.json"), *layouts, "--adapters", adapter, "--precision", "fp32")
    missing = next(name for name in tensors if name.endswith("lora_B.weight"))
    safetensors.write(file, {name: tensor for name, tensor in tensors.items() if name != missing})
    refused(suite, "A without B", model, (missing.replace("lora_B", "lora_A"), "has no lora_B", "adapter_model.safetensors"))
    safetensors.write(file, tensors)
    refused(suite, "fused", (*model, "--set", "train.lora=fused"), ("and the trainer has one matrix for both",), lines=None)
    refused(suite, "another model", (*MODEL, *layouts, "--adapters", adapter), ("is it of another base model",), lines=None)
    os.remove(os.path.join(adapter, "adapter_config.json"))
    refused(suite, "no configuration", model, ("adapter_config.json",))


if __name__ == "__main__":
    Suite(__doc__.splitlines()[0]).main(
        recorded_layouts, merged_arithmetic, merged_layouts, fused_and_experts, adapters_only, bugs, refusals
    )
