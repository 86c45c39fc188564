"""Experts in every form: refit convert --experts there and back, against what a few lines of Python make of the same
tensors; and what refit runs from a converted checkpoint, against what the real engines held.

    run_experts.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import compare_oracle  # noqa: E402
import safetensors  # noqa: E402
from job import Suite  # noqa: E402
from oracle_test import unpack  # noqa: E402

SINGLE = re.compile(r"^(.+\.)(?:mlp|block_sparse_moe|mixer)\.experts\.(\d+)\.(\w+)\.weight(_scale_inv|_scale)?$")
PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


def read_folder(folder):
    tensors = {}
    for shard in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        tensors.update(safetensors.read(shard))
    return tensors


def packed(tensors, module):
    """What transformers 5 makes of experts one by one: {name: (shape, bytes)}, all other tensors as they are."""
    result, experts = {}, {}
    for name, tensor in tensors.items():
        match = SINGLE.match(name)
        if match is None:
            result[name.replace("block_sparse_moe.gate", "mlp.gate")] = (list(tensor.shape), bytes(tensor.data))
        else:
            layer, expert, part, scale = match.groups()
            experts.setdefault((layer, scale or ""), {})[int(expert), PARTS[part]] = tensor
    for (layer, scale), held in experts.items():
        count = 1 + max(expert for expert, _ in held)
        gated = (0, "gate") in held
        first = [held[e, part] for e in range(count) for part in (("gate", "up") if gated else ("up",))]
        second = [held[e, "down"] for e in range(count)]
        name = "gate_up_proj" if gated else "up_proj"
        for stem, matrices, rows in ((name, first, 2 if gated else 1), ("down_proj", second, 1)):
            shape = [count, rows * matrices[0].shape[0], matrices[0].shape[1]]
            result[f"{layer}{module}.experts.{stem}{scale}"] = (shape, b"".join(bytes(m.data) for m in matrices))
    return result


def convert(suite, source, target, form, *more):
    shutil.rmtree(suite.path(target), ignore_errors=True)
    ended = suite.run(0, "convert", source, target, "--experts", form, *more)
    suite.check_code(ended, 0, f"convert {source} {target} --experts {form}")
    return ended


def check_equal(suite, a, b):
    ended = suite.run(0, "compare", a, b)
    suite.check_code(ended, 0, f"compare {a} {b}")


def there_and_back(suite):
    """Packing makes the tensors that Python makes, in one file and in shards, and unpacking the same checkpoint again."""
    for family, module in {
        "qwen3_moe": "mlp", "mixtral": "mlp", "deepseek_v3_mtp": "mlp", "nemotron_h_latent": "mixer", "qwen3_next": "mlp",
        "qwen3_5_moe_perexpert": "mlp",
    }.items():  # fmt: skip
        source = suite.checkpoint(family)
        wanted = packed(read_folder(source), module)
        for name, more in ((f"{family}-packed", ()), (f"{family}-shards", ("--max-shard-size", "60KB"))):
            convert(suite, source, name, "packed", *more)
            made = {name: (list(t.shape), bytes(t.data)) for name, t in read_folder(suite.path(name)).items()}
            suite.check(made == wanted, f"{name}: tensors differ: {sorted(made.keys() ^ wanted.keys())[:5]}")
        shards = glob.glob(suite.path(f"{family}-shards", "*.safetensors"))
        with open(suite.path(f"{family}-shards", "model.safetensors.index.json"), encoding="utf-8") as file:
            suite.check(len(shards) > 1 and set(json.load(file)["weight_map"]) == set(wanted), f"{family}: index")
        convert(suite, f"{family}-shards", f"{family}-each", "each")
        check_equal(suite, source, f"{family}-each")


def transposed(suite):
    """Published Qwen3-VL: [E, H, 2 I] and [E, I, H], element by element."""
    archive = os.path.join(os.path.dirname(suite.args.engines), "families.tar.xz")
    source = os.path.join(unpack(archive, os.path.join(os.path.dirname(suite.work), "oracle")), "ckpt", "qwen3_vl_moe")
    convert(suite, source, "vl-each", "each")
    convert(suite, source, "vl-packed", "packed")
    convert(suite, "vl-packed", "vl-each-again", "each")
    check_equal(suite, "vl-each", "vl-each-again")
    before, after = read_folder(source), read_folder(suite.path("vl-each"))
    prefix = "model.language_model.layers.2.mlp.experts."
    for stem, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        experts, rows, columns = before[prefix + stem].shape
        values = before[prefix + stem].data
        for e in range(experts):
            matrices = b"".join(bytes(after[f"{prefix}{e}.{part}.weight"].data) for part in parts)
            expected = b"".join(
                bytes(values[4 * ((e * rows + r) * columns + c) :][:4]) for c in range(columns) for r in range(rows)
            )
            suite.check(matrices == expected, f"expert {e} of {stem} is not transposed")


SMALL = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 256, "hidden_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 4,
    "moe_intermediate_size": 256,
}  # fmt: skip


def quantised(suite):
    """Blocks of FP8 go with their experts; where they would overlap, and where there is one form only, it is said."""
    for how, width, code in (("fp8", 256, 0), ("mxfp8", 96, 0), ("fp8", 192, 2)):
        os.makedirs(suite.path("small"), exist_ok=True)
        with open(suite.path("small", "config.json"), "w", encoding="utf-8") as file:
            json.dump(SMALL | {"moe_intermediate_size": width}, file)
        ended = suite.run(0, "synth", "small/config.json", how, "--quantisation", how, "--force")
        suite.check_code(ended, 0, f"synth {how}")
        ended = suite.run(0, "convert", how, f"{how}-packed", "--experts", "packed", "--force")
        suite.check_code(ended, code, f"{how} of width {width}, packed")
        if code != 0:
            suite.check("block scales" in ended.err and "overlap" in ended.err, "what is said of blocks", ended)
            continue
        wanted = packed(read_folder(suite.path(how)), "mlp")
        made = {name: (list(t.shape), bytes(t.data)) for name, t in read_folder(suite.path(f"{how}-packed")).items()}
        suite.check(made == wanted, f"{how}: tensors differ: {sorted(made.keys() ^ wanted.keys())[:5]}")
        convert(suite, f"{how}-packed", f"{how}-each", "each")
        check_equal(suite, how, f"{how}-each")
    for family, words in (("gpt_oss", "one form only"), ("qwen3", "no experts")):
        ended = suite.run(0, "convert", suite.checkpoint(family), "refused", "--experts", "packed")
        suite.check_code(ended, 2, f"{family} has no other form")
        suite.check(words in ended.err and not os.path.exists(suite.path("refused")), f"{family}: what is said", ended)
    ended = suite.run(0, "convert", suite.checkpoint("qwen3"), "refused", "--family", "qwen3")
    suite.check_code(ended, 2, "--family alone")


def synthetic(suite):
    """refit synth writes either form, which convert makes of the other."""
    for form in ("packed", "each"):
        shutil.rmtree(suite.path(f"synth-{form}"), ignore_errors=True)
        ended = suite.run(0, "synth", "mixtral-8x7b-small", f"synth-{form}", "--experts", form, "--layers", 1)
        suite.check_code(ended, 0, f"synth --experts {form}")
        names = set(read_folder(suite.path(f"synth-{form}")))
        suite.check(("model.layers.0.mlp.experts.gate_up_proj" in names) == (form == "packed"), f"synth {form}: {names}")


def run(suite):
    """The engines' own parameters, from checkpoints whose experts are packed."""
    engines = os.path.dirname(os.path.dirname(suite.checkpoint("qwen3_moe")))
    with open(os.path.join(engines, "index.json"), encoding="utf-8") as file:
        index = json.load(file)

    def layout(family, side, name):
        return next(e for e in index if (e["checkpoint"], e["side"], os.path.basename(e["folder"])) == (family, side, name))

    for family, train, gen in (("qwen3_moe", "tp2ep2", "tp2_ep"), ("mixtral", "ep2", "tp2"), ("nemotron_h", "tp2ep2", "tp2")):
        train, gen = layout(family, "train", train), layout(family, "gen", gen)
        convert(suite, suite.checkpoint(family), f"{family}-run", "packed")
        dumps = {side: suite.path(f"{family}-{side}") for side in ("train", "gen")}
        settings = [f"{key}={value}" for entry in (train, gen) for key, value in entry["settings"].items()]
        ended = suite.run(
            train["ranks"] + gen["ranks"], "run", "--checkpoint", f"{family}-run", "--train", train["layout"],
            "--gen", gen["layout"], "--precision", "fp32", "--set", "run.update=none", "--steps", 1, "--warmup", 0,
            "--force", "--dump-train", dumps["train"], "--dump-gen", dumps["gen"],
            *(word for setting in settings for word in ("--set", setting)),
        )  # fmt: skip
        if not suite.check_code(ended, 0, f"{family} from packed experts"):
            continue
        for entry in (train, gen):
            found = compare_oracle.compare_folders(dumps[entry["side"]], entry["side"], os.path.join(engines, entry["folder"]))
            suite.check(not found, f"{entry['folder']}: {found[:5]}")


if __name__ == "__main__":
    Suite(__doc__).main(there_and_back, transposed, quantised, synthetic, run)
