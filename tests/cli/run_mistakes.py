"""Mistakes in command line, case, checkpoint and rank count: exit code 2, said once, nothing half-written.

    run_mistakes.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

MODEL = ("--model", "qwen3-0.6b-small", "--layers", 2)
LOGGED = ("refit: probing links and memory",)
LAYOUTS = ("--train", "TP2", "--gen", "TP2")


def refused(suite, what, arguments, words, ranks=4, lines=1, command="run"):
    """Exit code 2 and `lines` lines of refit's (None: any number) that contain all `words`, from one rank only; no file
    but a result that says so."""
    folder = suite.path("outputs")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    outputs = ["--json", os.path.join(folder, "result.json")]
    if command == "run":
        outputs += ["--csv", os.path.join(folder, "result.csv"), "--steps", 2]
    ended = suite.run(ranks, command, *arguments, *outputs)
    suite.check_code(ended, 2, what)
    said = [line for line in ended.err.splitlines() if line.startswith(("refit: ", "  train: ", "  gen: ", "  model."))]
    said = [line for line in said if line not in LOGGED and not line.startswith("refit: loading ")]
    suite.check(lines is None or len(said) == lines, f"{what}: {len(said)} lines, not {lines}", ended)
    text = "\n".join(said)
    for word in words:
        suite.check(text.count(word) == 1, f"{what}: says '{word}' {text.count(word)} times", ended)
    left = set(os.listdir(folder))
    suite.check(left <= {"result.json", "result.csv"}, f"{what}: left {left}", ended)
    if "result.json" in left:
        result = suite.result(os.path.join(folder, "result.json"), ended)
        suite.check((result["status"], result["exit_code"]) == ("error", 2), f"{what}: {result['status']}", ended)
        suite.check(result["error"]["kind"] == "usage", f"{what}: {result['error']}", ended)
    return ended


def rank_counts(suite):
    words = ("needs 4 ranks", "mpirun -np 4")
    for ranks in (0, 3, 5):
        refused(suite, f"{ranks} ranks", (*MODEL, *LAYOUTS), words, ranks=ranks)


def impossible_layouts(suite):
    """All violations of both sides at once."""
    words = ("train: 16 attention heads", "gen: 16 attention heads", "train: gate_proj", "gen: gate_proj", "train: legal", "gen: legal")
    refused(suite, "layouts", (*MODEL, "--train", "TP3", "--gen", "TP5"), words, ranks=8, lines=13)
    refused(suite, "gen CP", (*MODEL, "--train", "TP2", "--gen", "CP2"), ("gen.layout", "have no CP and ETP"))
    refused(suite, "layers", (*MODEL, "--train", "PP3", "--gen", "TP1"), ("train: ",), lines=2)


def options(suite):
    """Keys, values and injections that do not exist, or contradict each other: by name, with what was meant."""
    base = (*MODEL, *LAYOUTS)
    refused(suite, "injection", (*base, "--inject", "swap-gate"), ('"swap-gate"', "swap-gate-up"))
    refused(suite, "key", (*base, "--set", "refit.exectuor=p2p"), ("did you mean refit.executor?",))
    refused(suite, "value", (*base, "--executor", "p2q"), ('"p2q"', "did you mean p2p?"))
    words = ("refit.group_size: means nothing", "golden")
    refused(suite, "meaningless", (*base, "--executor", "golden", "--set", "refit.group_size=8"), words)
    words = ("model.config", "model.checkpoint", "not both")
    refused(suite, "two models", (*base, "--checkpoint", suite.checkpoint("qwen3")), words)
    refused(suite, "no model", LAYOUTS, ("a model is required",))
    refused(suite, "EP", (*MODEL, "--train", "TP2", "--gen", "TP2xEP2"), ("gen: EP2 on a model without experts",), lines=2)
    fifo = suite.path("fifo")
    if not os.path.exists(fifo):
        os.mkfifo(fifo)
    moe = ("--model", "qwen3-30b-a3b-small", "--train", "EP2", "--gen", "TP2xEP2")
    refused(suite, "FIFO as a map", (*moe, "--set", f"gen.expert_placement={fifo}"), ("fifo: is not a file",))
    refused(suite, "misspelt model", ("--model", "qwen3-0.6b-smal", *LAYOUTS), ("did you mean qwen3-0.6b-small?",))


def deltas(suite):
    """refit.delta where there is none, and updates that are no fraction."""
    base = (*MODEL, *LAYOUTS)
    for update in ("sparse:", "sparse:x", "sparse:1.5", "sparse:-0.1", "sparse:-0", "sparse:nan", "sparse:inf", "sparse:0.1 ", "sparse"):
        refused(suite, f"update {update}", (*base, "--set", f"run.update={update}"), ("--set run.update: ", "sparse:FRACTION"))
    for executor, delta in (("golden", "auto"), ("direct", "index"), ("direct", "off")):
        refused(suite, executor, (*base, "--executor", executor, "--delta", delta), ("refit.delta: means nothing", executor))
    refused(suite, "delta", (*base, "--executor", "p2p", "--delta", "bitmaps"), ('"bitmaps"', "did you mean bitmap?"))
    for bug, words in (("B64-delta-wrong-base", ("three refits",)), ("B65-drafter-left-out", ("layers of multi-token prediction",))):
        refused(suite, bug, (*base, "--executor", "p2p", "--inject", bug), words)


def case_files(suite):
    with open(suite.path("case.toml"), "w", encoding="utf-8") as file:
        file.write('name = "x"\n[refit]\n  exectuor = "p2p"\n[trian]\nlayout = "TP2"\n')
    words = ("case.toml:3:3", "did you mean refit.executor?", "case.toml:4:2", "did you mean train?")
    refused(suite, "case keys", ("case.toml", *MODEL, *LAYOUTS), words, lines=2)
    refused(suite, "no case", ("absent.toml", *MODEL, *LAYOUTS), ("absent.toml",))


def outputs(suite):
    """Existing files are kept without --force; folders that cannot be written are found before anything is loaded."""
    base = ("run", *MODEL, *LAYOUTS, "--steps", 1)
    existing = suite.path("existing.json")
    with open(existing, "w", encoding="utf-8") as file:
        file.write("mine")
    ended = suite.run(4, *base, "--json", existing)
    suite.check_code(ended, 2, "an existing output")
    suite.check(ended.err.count("existing.json exists") == 1 and "--force" in ended.err, "existing output", ended)
    with open(existing, encoding="utf-8") as file:
        suite.check(file.read() == "mine", "an existing output was replaced", ended)
    for arguments in (("--json", "/proc/x.json"), ("--dump-gen", "/proc/dumps"), ("--csv", suite.path("no", "x.csv"))):
        ended = suite.run(4, *base, *arguments)
        suite.check_code(ended, 2, f"{arguments}")
        suite.check(ended.err.count(arguments[1]) == 1 and "loading" not in ended.err, f"{arguments}", ended)
    ended = suite.run(4, *base, "--dump-gen", "dumps", "--force")
    suite.check_code(ended, 0, "dumps")
    ended = suite.run(4, *base, "--dump-gen", "dumps")
    suite.check_code(ended, 2, "existing dumps")
    suite.check(ended.err.count("already holds dumps") == 1, "existing dumps", ended)


def copy_checkpoint(suite, family, name):
    """A copy of a tiny checkpoint in one file, and its tensors, to be damaged."""
    folder = suite.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    source = suite.checkpoint(family)
    shutil.copy(os.path.join(source, "config.json"), folder)
    tensors = {}
    for shard in sorted(glob.glob(os.path.join(source, "*.safetensors"))):
        tensors.update(safetensors.read(shard))
    return folder, os.path.join(folder, "model.safetensors"), tensors


def checkpoints(suite):
    refused(suite, "no checkpoint", ("--checkpoint", suite.path("nowhere"), *LAYOUTS), ("nowhere",))

    folder, file, tensors = copy_checkpoint(suite, "qwen3", "truncated")
    safetensors.write(file, tensors)
    os.truncate(file, os.path.getsize(file) - 1000)
    refused(suite, "truncated shard", ("--checkpoint", folder, *LAYOUTS), ("truncated/model.safetensors",))

    folder, file, tensors = copy_checkpoint(suite, "qwen3", "reshaped")
    name = "model.layers.1.mlp.up_proj.weight"
    old = tensors[name]
    tensors[name] = safetensors.Tensor(old.dtype, old.shape[::-1], old.data)
    safetensors.write(file, tensors)
    refused(suite, "wrong shape", ("--checkpoint", folder, *LAYOUTS), (name, "[80, 144]"), lines=2)

    folder, file, tensors = copy_checkpoint(suite, "qwen3", "incomplete")
    del tensors[name]
    safetensors.write(file, tensors)
    refused(suite, "missing tensor", ("--checkpoint", folder, *LAYOUTS), (name,), lines=2)


def untied_heads(suite):
    """A tied model whose two names have different values: which one is meant cannot be known."""
    folder, file, tensors = copy_checkpoint(suite, "llama_tied", "untied")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding
    safetensors.write(file, tensors)
    ended = suite.run(4, "run", "--checkpoint", folder, *LAYOUTS, "--steps", 1)
    suite.check_code(ended, 0, "a tied head that is its embedding")
    data = bytearray(embedding.data)
    data[-1] ^= 0x40
    tensors["lm_head.weight"] = safetensors.Tensor(embedding.dtype, embedding.shape, bytes(data))
    safetensors.write(file, tensors)
    for train in ("TP2", "PP2"):
        words = ("lm_head.weight",)
        refused(suite, f"untied head, {train}", ("--checkpoint", folder, "--train", train, "--gen", "TP2"), words)


def different_inputs(suite):
    """Ranks that were started with different words or checkpoints stop before anything moves, and say where they differ."""
    def started(words, others):
        common = ("--train", "TP2", "--gen", "TP1", "--steps", 1)
        return suite.run(1, "run", *words, *common, ":", "-np", 2, suite.args.refit, "run", *others, *common)

    ended = started((*MODEL, "--bulk", "ffn"), MODEL)
    suite.check_code(ended, 3, "different policies")
    suite.check("rank 1: this rank's case differs from rank 0's" in ended.err, "different policies: not said", ended)
    folders = [suite.checkpoint(family) for family in ("qwen3", "llama_tied")]
    ended = started(("--checkpoint", folders[0]), ("--checkpoint", folders[1]))
    suite.check_code(ended, 3, "different checkpoints")
    suite.check("first in tensor 0 (model.embed_tokens.weight)" in ended.err, "different checkpoints: not said", ended)


def planning(suite):
    """The same in one process."""
    refused(suite, "plan layouts", (*MODEL, "--train", "TP3", "--gen", "TP5"), ("train: 16", "gen: 16", "docs/layouts.md"), 0, 14, "plan")
    refused(suite, "plan hardware", (*MODEL, *LAYOUTS, "--hardware", "absent"), ("hardware/absent.toml",), 0, 1, "plan")


if __name__ == "__main__":
    Suite(__doc__).main(
        rank_counts, impossible_layouts, options, deltas, case_files, outputs, checkpoints, untied_heads, different_inputs,
        planning
    )  # fmt: skip
