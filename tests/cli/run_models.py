"""Models that refit does not know by name, or not in every part; and the page's table of its families.

    run_models.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

EXTRA = "model.layers.0.adapter.scale"
VISUAL = "model.visual.patch_embed.proj.weight"
LAYOUTS = ("--train", "TP2", "--gen", "TP2", "--precision", "fp32")
LAYOUTS += ("--steps", 1, "--warmup", 0, "--force", "--set", "run.update=none")


def copy_checkpoint(suite, family, name, change_config=None, change_tensors=None):
    """A copy of a tiny checkpoint in one file, with its config and tensors changed in place."""
    folder = suite.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    source = suite.checkpoint(family)
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    tensors = {}
    for shard in sorted(glob.glob(os.path.join(source, "*.safetensors"))):
        tensors.update(safetensors.read(shard))
    if change_config:
        change_config(config)
    if change_tensors:
        change_tensors(tensors)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    safetensors.write(os.path.join(folder, "model.safetensors"), tensors)
    return folder


def unknown_architectures(suite):
    """A name that refit does not know runs under a family that fits; one that does not fit is refused."""
    folder = copy_checkpoint(suite, "qwen3", "renamed", lambda c: c.update(architectures=["FooLM"], model_type="foo"))
    ended = suite.run(4, "run", "--checkpoint", folder, *LAYOUTS)
    suite.check_code(ended, 2, "an unknown architecture")
    suite.check("FooLM" in ended.err and "model.family overrides" in ended.err, "it is named", ended)
    ended = suite.run(4, "run", "--checkpoint", folder, *LAYOUTS, "--set", "model.family=qwen3")
    suite.check_code(ended, 0, "the same with its family")
    ended = suite.run(4, "run", "--checkpoint", folder, *LAYOUTS, "--set", "model.family=qwen2")
    suite.check_code(ended, 2, "a family that does not fit")
    suite.check("q_proj.bias" in ended.err and "is missing" in ended.err, "what does not fit is named", ended)


def unknown_tensors(suite):
    """Extra tensors are whole on every rank under their own names, misc under every policy, and listed in a warning."""
    data = bytes(range(24))

    def add(tensors):
        tensors[EXTRA] = safetensors.Tensor("I64", [3], data)
        tensors[VISUAL] = safetensors.Tensor("F32", [2, 3, 1, 2, 2], bytes(range(96)))  # more than layouts look at

    folder = copy_checkpoint(suite, "qwen3_moe", "extra", change_tensors=add)
    for policy in ("all", "whitelist", "ffn"):
        ended = suite.run(
            4, "run", "--checkpoint", folder, *LAYOUTS, "--bulk", policy, "--json", "extra.json",
            "--dump-train", "extra-train", "--dump-gen", "extra-gen",
        )  # fmt: skip
        if not suite.check_code(ended, 0, f"an extra tensor under {policy}"):
            continue
        suite.check("have no rule" in ended.err and EXTRA in ended.err, f"{policy}: the warning lists it", ended)
        result = suite.result("extra.json", ended)
        if policy == "all":
            suite.check(result["payload"]["misc_bytes"] == 24 + 96, f"misc is {result['payload']['misc_bytes']}", ended)
        suite.check(any(EXTRA in note for note in result["notes"]), f"{policy}: notes {result['notes']}", ended)
        for side in ("train", "gen"):
            for rank in range(2):
                dump = safetensors.read(suite.path(f"extra-{side}", f"{side}-rank-{rank:05}.safetensors"))
                held = dump.get(EXTRA)
                suite.check(held is not None and bytes(held.data) == data, f"{policy}: {side} rank {rank}", ended)
                visual = dump.get(VISUAL)
                right = visual is not None and list(visual.shape) == [2, 3, 1, 2, 2] and bytes(visual.data) == bytes(range(96))
                suite.check(right, f"{policy}: {side} rank {rank}: {VISUAL}", ended)
    ended = suite.run(0, "inspect", folder)
    suite.check(f"unknown: {EXTRA}" in ended.out, "inspect lists it", ended)


def checkpoint_bytes(folder, tensor):
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            found = safetensors.read(os.path.join(folder, file)).get(tensor)
            if found is not None:
                return bytes(found.data)
    raise KeyError(tensor)


def drafter(suite):
    """The drafter's embedding and head have no holder on the train side: they come from the checkpoint, once."""
    checkpoint = suite.checkpoint("deepseek_v3_mtp")
    arguments = ("--checkpoint", checkpoint, *LAYOUTS, "--set", "gen.mtp=true", "--json", "drafter.json")
    ended = suite.run(4, "run", *arguments)
    if suite.check_code(ended, 0, "the drafter"):
        result = suite.result("drafter.json", ended)
        suite.check(result["payload"]["from_checkpoint_bytes"] == 2 * 192 * 64 * 4, f"{result['payload']}", ended)
        suite.check(result["verification"]["elements_wrong"] == 0, "elements", ended)
    ended = suite.run(4, "run", "--checkpoint", suite.checkpoint("deepseek_v3"), *LAYOUTS, "--set", "gen.mtp=true")
    suite.check_code(ended, 2, "a drafter of a model without one")
    # Beside its model a drafter shares embedding and head, so that all of it comes from the train side; a drafter that is
    # not trained stays as the checkpoint has it, while its model is updated.
    for name, options, from_checkpoint in (("trained", (), False), ("frozen", ("--set", "train.mtp=false"), True)):
        words = ("--checkpoint", checkpoint, *LAYOUTS[:6], "--set", "gen.mtp=with", *options, "--steps", 2, "--warmup", 0)
        ended = suite.run(4, "run", *words, "--json", f"{name}.json", "--dump-gen", name, "--force")
        if not suite.check_code(ended, 0, f"a {name} drafter with its model"):
            continue
        result = suite.result(f"{name}.json", ended)
        suite.check((result["payload"]["from_checkpoint_bytes"] > 0) == from_checkpoint, f"{name}: {result['payload']}", ended)
        held = safetensors.read(suite.path(name, "gen-rank-00000.safetensors"))
        drafts = [tensor for tensor in held if tensor.startswith("drafter.")]
        suite.check(len(drafts) > 10 and not any("head.weight" in one or "embed" in one for one in drafts), f"{drafts}", ended)
        only = next(tensor for tensor in drafts if tensor.endswith(".enorm.weight"))
        with_checkpoint = bytes(held[only].data) == checkpoint_bytes(checkpoint, only[len("drafter.") :])
        suite.check(with_checkpoint == from_checkpoint, f"{name}: {only} is the checkpoint's: {with_checkpoint}", ended)
    # Synthetic weights take the same path.
    ended = suite.run(4, "run", "--model", "deepseek-v3-small", *LAYOUTS, "--set", "gen.mtp=true", "--bulk", "ffn")
    suite.check_code(ended, 0, "a synthetic drafter")


def page(suite):
    """docs/models.md names every family with the types of models by which it is recognised."""
    with open(os.path.join(suite.args.inputs, "..", "docs", "models.md"), encoding="utf-8") as file:
        families = file.read().partition("## Models that come with refit")[0]
        rows = [line for line in families.splitlines() if line.startswith("| `")]
    documented = {line.split("`")[1]: set(line.split("|")[3].replace("`", "").split()) for line in rows}
    ended = suite.run(0, "list", "families", "--json")
    suite.check_code(ended, 0, "list families")
    for family in json.loads(ended.out):
        name, types = family["family"], set(family["model types"].split())
        suite.check(documented.pop(name, None) == types, f"docs/models.md: the row of {name} is not {sorted(types)}", ended)
    suite.check(not documented, f"docs/models.md: {sorted(documented)} are no families", ended)


def everything(suite):
    unknown_architectures(suite)
    unknown_tensors(suite)
    drafter(suite)
    page(suite)


Suite(__doc__).main(everything)
