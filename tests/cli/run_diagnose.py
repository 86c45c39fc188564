"""`refit diagnose` says what a broken refit left on gen ranks, and which bug does so.

    run_diagnose.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import array
import ast
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

import safetensors  # noqa: E402

FP32 = ("--precision", "fp32")


def run(suite, name, *arguments, ranks=4):
    """A refit with dumps of both sides in the folders NAME.gen and NAME.train."""
    dumps = ("--dump-gen", f"{name}.gen", "--dump-train", f"{name}.train", "--force")
    return suite.run(ranks, "run", "--steps", 2, "--warmup", 0, *arguments, *dumps)


def diagnose(suite, name, *arguments, code=1):
    """The JSON document of a diagnosis of NAME.gen."""
    suite_arguments = ("--gen-dump", f"{name}.gen", "--json", f"{name}.json", "--force", *arguments)
    ended = suite.run(0, "diagnose", *suite_arguments)
    suite.check_code(ended, code, f"diagnosis of {name}")
    result = suite.result(f"{name}.json", ended)
    suite.check(result["status"] == ("wrong" if code else "equal"), f"{name}: {result['status']}", ended)
    return result, ended


def engine_dump(suite, family, layout, name, side="gen"):
    """What a real engine stored, as a dump folder that says nothing of how it was made."""
    engine = "vllm" if side == "gen" else "megatron"
    source = os.path.join(os.path.dirname(os.path.dirname(suite.checkpoint(family))), engine, family, layout)
    shutil.rmtree(suite.path(f"{name}.{side}"), ignore_errors=True)
    os.makedirs(suite.path(f"{name}.{side}"))
    for file in os.listdir(source):
        if not file.endswith(".safetensors"):
            continue
        rank = int(file.removeprefix("rank").removesuffix(".safetensors"))
        shutil.copy(os.path.join(source, file), suite.path(f"{name}.{side}", f"{side}-rank-{rank:05}.safetensors"))


def named_bugs(suite):
    """Each bug is found and named from the dumps alone: a layout's lie of either side, and what is no lie. Bugs that leave
    the same dumps are named together."""
    qwen3 = ("--checkpoint", suite.checkpoint("qwen3"), "--train", "TP2", "--gen", "TP2", *FP32)
    wanted = {"swap-gate-up": {"moved"}, "drop-tensor": {"unwritten"}, "lost-update": {"updated"},
              "B38-halves-of-all": {"moved"}}  # fmt: skip
    twins = {"drop-tensor": ["B10-discarded"]}  # layer 0's o_proj is not sent, or is sent and thrown away
    for bug, kinds in wanted.items():
        run(suite, bug, *qwen3, "--inject", bug)
        result, ended = diagnose(suite, bug, "--train-dump", f"{bug}.train")
        found = [entry["name"] for entry in result["bugs"]]
        suite.check(found == [bug, *twins.get(bug, [])], f"{bug} is named {found}", ended)
        suite.check({finding["kind"] for finding in result["findings"]} == kinds, f"{bug}: {result['findings']}", ended)
        suite.check(f"known bug: {bug}" in ended.out, f"{bug} is not printed", ended)


def bugs_of_cases(suite):
    """Bugs whose effect depends on more than the layouts, as their cases of inputs/bugs leave them, from the dumps alone:
    what is unpacked or placed before it arrives, and buffers beside right parameters."""
    rows = (
        ("B15-copy-race", "B15-copy-race", {"zero"}, 3),
        ("B17-undrained-stream", "B17-undrained-stream", {"moved"}, 4),
        ("B35-stale-kv-scales", "stale-kv-scales", {"cache scales"}, 4),
    )
    for case, bug, kinds, ranks in rows:
        dumps = ("--dump-gen", f"{case}.gen", "--dump-train", f"{case}.train", "--force")
        suite.run(ranks, "run", os.path.join(suite.args.inputs, "bugs", f"{case}.toml"), *dumps)
        result, ended = diagnose(suite, case, "--train-dump", f"{case}.train")
        found = [entry["name"] for entry in result["bugs"]]
        suite.check(found == [bug], f"{case} is named {found}", ended)
        suite.check({finding["kind"] for finding in result["findings"]} == kinds, f"{case}: {result['findings']}", ended)


def what_moved(suite):
    """The sentence of a misplaced part, in full."""
    result, ended = diagnose(suite, "swap-gate-up", "--train-dump", "swap-gate-up.train")
    gate = [finding for finding in result["findings"] if finding["source"].endswith("layers.0.mlp.up_proj.weight")]
    suite.check(len(gate) == 1, f"{result['findings']}", ended)
    suite.check(gate[0]["gen_ranks"] == [1] and gate[0]["place"] == gate[0]["source_place"], f"{gate}", ended)
    suite.check("model.layers.*.mlp.gate_proj.weight (layers 0.." in ended.out, "no sentence for all layers", ended)


def stale(suite):
    """With the checkpoint beside the train dump, old values are recognised exactly."""
    checkpoint = suite.checkpoint("qwen3")
    run(suite, "stale", "--checkpoint", checkpoint, "--train", "TP1", "--gen", "TP1", *FP32, ranks=2)
    engine_dump(suite, "qwen3", "tp1", "old")
    arguments = ("--train-dump", "stale.train", "--expected", checkpoint, "--train", "TP1", "--gen", "TP1", *FP32)
    result, ended = diagnose(suite, "old", *arguments)
    suite.check({finding["kind"] for finding in result["findings"]} == {"stale"}, f"{result['findings']}", ended)
    suite.check("holds what the checkpoint has there" in ended.out, "not said", ended)


def clean(suite):
    """A right refit, against train's dump, and a gen dump against another that is equal."""
    run(suite, "clean", "--model", "qwen3-30b-a3b-small", "--layers", 1, "--train", "EP2xTP2", "--gen", "TP2")
    result, ended = diagnose(suite, "clean", "--train-dump", "clean.train", code=0)
    suite.check(result["elements"] > 0 and not result["findings"] and not result["bugs"], f"{result}", ended)
    diagnose(suite, "clean", "--expected", "clean.gen", code=0)
    fp8 = ("--precision", "bf16:fp8", "--train", "TP1", "--gen", "TP4")  # experts' scales are repeated there
    run(suite, "quantised", "--model", "qwen3-30b-a3b-small", "--layers", 1, *fp8, ranks=5)
    diagnose(suite, "quantised", "--train-dump", "quantised.train", code=0)


def real_engine(suite):
    """A real engine's dump is equal to its checkpoint, as safetensors and as HDF5, and to what a real trainer held; one
    wrong bit in it is found."""
    arguments = ("--expected", suite.checkpoint("nemotron_h"), "--gen", "TP2", *FP32)
    engine_dump(suite, "nemotron_h", "tp2", "engine")
    diagnose(suite, "engine", *arguments, code=0)
    engine_dump(suite, "nemotron_h", "tp2ep2", "engine", "train")
    trained = ("--train-dump", "engine.train", "--checkpoint", arguments[1], "--train", "TP2xDP2xEP2")
    result, ended = diagnose(suite, "engine", *trained, *arguments[2:], code=0)
    suite.check(result["truth"] == "the train dump", f"{result}", ended)
    path = suite.path("engine.gen", "gen-rank-00001.safetensors")
    ended = suite.run(0, "convert", path, "converted", "--force")
    suite.check_code(ended, 0, "conversion of a dump")
    os.remove(path)
    shutil.move(suite.path("converted", "model.h5"), suite.path("engine.gen", "gen-rank-00001.h5"))
    diagnose(suite, "engine", *arguments, code=0)
    path = suite.path("engine.gen", "gen-rank-00000.safetensors")
    tensors = safetensors.read(path)
    name = "model.layers.3.mixer.o_proj.weight"
    data = bytearray(tensors[name].data)
    data[4 * 7 + 1] ^= 16
    tensors[name] = safetensors.Tensor(tensors[name].dtype, tensors[name].shape, bytes(data))
    safetensors.write(path, tensors)
    result, ended = diagnose(suite, "engine", *arguments)
    suite.check([finding["kind"] for finding in result["findings"]] == ["flipped"], f"{result['findings']}", ended)
    suite.check("bit 12 of [0, 7]" in ended.out, "the bit is not named", ended)
    suite.check(result["elements_wrong"] == 1 and result["bugs"] == [], f"{result}", ended)
    suite.check("none known" in ended.out, "a bug is named", ended)


def mistakes(suite):
    """Each with exit code 2 and a word of what to do."""
    checkpoint = ("--expected", suite.checkpoint("nemotron_h"))
    os.makedirs(suite.path("empty"), exist_ok=True)
    engine_dump(suite, "nemotron_h", "tp2", "whole")
    engine_dump(suite, "nemotron_h", "tp2", "gap")
    os.remove(suite.path("gap.gen", "gen-rank-00000.safetensors"))
    engine_dump(suite, "nemotron_h", "tp2", "cut")
    with open(suite.path("cut.gen", "gen-rank-00001.safetensors"), "r+b") as file:
        file.truncate(5000)
    for arguments, word in (
        (("empty", *checkpoint, "--gen", "TP2"), "gen-rank-00000.safetensors"),
        (("gap.gen", *checkpoint, "--gen", "TP2"), "gen-rank-00000.safetensors (or .h5) is missing"),
        (("cut.gen", *checkpoint, "--gen", "TP2"), "gen-rank-00001.safetensors"),
        (("whole.gen", *checkpoint), "--gen"),
        (("whole.gen", *checkpoint, "--gen", "TP1"), "2 gen ranks were dumped"),
        (("whole.gen", *checkpoint, "--gen", "TP2", "--train-dump", "empty"), "--train"),
        (("whole.gen", "--gen", "TP2"), "--model"),
        (("whole.gen", "--gen", "TP2", "--model", suite.model("qwen3-4b-small")), "--expected CHECKPOINT|DUMP"),
        (("whole.gen", *checkpoint, "--gen", "TP2", "--steps", "3"), "--steps"),
    ):
        ended = suite.run(0, "diagnose", "--gen-dump", *arguments)
        suite.check_code(ended, 2, " ".join(arguments))
        suite.check(word in ended.err, f"{word} is not named", ended)
    ended = suite.run(0, "diagnose", "--gen-dump", "whole.gen", *checkpoint, "--gen", "TP2")
    suite.check_code(ended, 2, "another precision")
    suite.check("is F32, not BF16" in ended.err and "--precision" in ended.err, "not said", ended)


def changed(suite, name, change, metadata=None):
    """The dump NAME.gen as changed.gen, whose files hold change(parameter's name, tensor) for each; a None is left out."""
    shutil.rmtree(suite.path("changed.gen"), ignore_errors=True)
    os.makedirs(suite.path("changed.gen"))
    for file in os.listdir(suite.path(f"{name}.gen")):
        pairs = [change(*item) for item in safetensors.read(suite.path(f"{name}.gen", file)).items()]
        safetensors.write(suite.path("changed.gen", file), dict(pair for pair in pairs if pair), metadata)


def transposed(tensor):
    """A bf16 tensor with its last two dimensions exchanged."""
    rows, columns = tensor.shape[-2:]
    count = len(tensor.data) // 2
    elements = memoryview(bytes(tensor.data)).cast("H")
    turned = array.array("H", bytes(2 * count))
    for at in range(0, count, rows * columns):
        for column in range(columns):
            turned[at + column * rows : at + (column + 1) * rows] = array.array(
                "H", elements[at + column : at + rows * columns : columns]
            )
    return safetensors.Tensor(tensor.dtype, (*tensor.shape[:-2], columns, rows), turned.tobytes())


def other_spellings(suite):
    """Dumps of other versions, behind wrappers, or transposed are read; another layout or other names are mistakes."""
    model = ("--model", suite.model("qwen3-30b-a3b-small"), "--set", "model.layers=1")
    run(suite, "spelled", "--model", "qwen3-30b-a3b-small", "--layers", 1, "--train", "TP1", "--gen", "TP2", ranks=3)
    arguments = (*model, "--train-dump", "spelled.train", "--train", "TP1")
    changed(suite, "spelled", lambda name, t: (f"module.{name.replace('.routed_experts.', '.')}", t))
    diagnose(suite, "changed", *arguments, "--gen", "TP2", code=0)
    turn = ("w13_weight", "o_proj.weight")
    changed(suite, "spelled", lambda name, t: (name, transposed(t) if name.endswith(turn) else t))
    result, ended = diagnose(suite, "changed", *arguments, "--gen", "TP2")
    suite.check([finding["kind"] for finding in result["findings"]] == ["transposed"], f"{result['findings']}", ended)
    suite.check("2 parameters are stored transposed" in ended.out, "not said in one line", ended)
    changed(suite, "spelled", lambda name, t: None if "o_proj" in name else (name, t))
    result, ended = diagnose(suite, "changed", *arguments, "--gen", "TP2")
    suite.check([finding["kind"] for finding in result["findings"]] == ["missing"], f"{result['findings']}", ended)
    for layout, change, word in (
        ("TP1xDP2", lambda name, t: (name, t), "give --gen TP2"),
        ("TP2xEP2", lambda name, t: (name, t), "give --gen TP2"),
        ("TP4", lambda name, t: (name, t), "TP2 fits"),
        ("TP2", lambda name, t: (f"{name.replace('.', '/')}.q_proj.x", t), "looks like a Hugging Face checkpoint"),
    ):
        changed(suite, "spelled", change)
        ended = suite.run(0, "diagnose", "--gen-dump", "changed.gen", *arguments, "--gen", layout)
        suite.check_code(ended, 2, f"{layout}: {word}")
        suite.check(word in ended.err, f"{word} is not said", ended)


def exported_settings(suite):
    """The settings that scripts/export_vllm.py shows are enough, beside what is expected."""
    script = os.path.join(os.path.dirname(suite.args.inputs), "scripts", "export_vllm.py")
    with open(script, encoding="utf-8") as file:
        settings = ast.literal_eval(re.search(r"settings = (\{.*?\})", file.read()).group(1))
    suite.run(0, "synth", suite.model("qwen3-4b-small"), "synthetic", "--layers", 2, "--force")
    layout = ("--train", "TP1", "--gen", settings["gen.layout"], "--set", "run.update=none")
    run(suite, "exported", "--checkpoint", "synthetic", *layout, ranks=1 + int(settings["gen.layout"].removeprefix("TP")))
    changed(suite, "exported", lambda name, t: (name, t), {f"refit.{key}": value for key, value in settings.items()})
    diagnose(suite, "changed", "--expected", "synthetic", code=0)


Suite(__doc__).main(named_bugs, bugs_of_cases, what_moved, stale, clean, real_engine, mistakes, other_spellings, exported_settings)
