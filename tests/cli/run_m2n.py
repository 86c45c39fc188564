"""NCCL M2N's inputs: its placement rules against a copy of them in a few lines, runs, metrics, and mistakes.

    run_m2n.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402


def files(suite):
    return tuple(os.path.join(suite.args.inputs, "m2n", f"small.{part}.json") for part in ("model", "system"))


def case(suite):
    model, system = files(suite)
    return ("--m2n-model", model, "--m2n-system", system)


def expected_pieces(model, side, train):
    """{tensor: {rank: box}} as the benchmark's own code places them, for models with 2-D weights and numbered experts."""
    tensors = {}
    for name, entry in model.items():
        group = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        shape = [1 + tensors.get(group, [0])[0], *entry["shape"]] if group != name else entry["shape"]
        tensors[group] = shape
    layers = 1 + max(int(match[1]) for name in model if (match := re.search(r"layers\.(\d+)", name)))
    per_stage = side["num_gpus"] // side["pp_size"]
    pieces = {}
    for name, shape in tensors.items():
        match = re.search(r"layers\.(\d+)", name)
        stage = int(match[1]) * side["pp_size"] // layers if match else 0 if "embed" in name else side["pp_size"] - 1
        by_rows = re.search(r"(q|k|v|gate|up)_proj\.weight$|embed_tokens\.weight|lm_head\.weight", name)
        by_columns = re.search(r"(o|down)_proj\.weight$", name)
        cut, parts = (0 if by_rows else 1 if by_columns else None), side["tp_size"]
        if ".experts." in name:
            cut = 0 if side["ep_size"] > 1 else None if train or cut is None else cut + 1
            parts = side["ep_size"] if side["ep_size"] > 1 else parts
        pieces[name] = {}
        for rank in range(stage * per_stage, (stage + 1) * per_stage):
            box = [[0, extent] for extent in shape]
            if cut is not None and len(shape) > 1 and parts > 1:
                part = shape[cut] // parts
                box[cut] = [rank % per_stage % parts * part, (rank % per_stage % parts + 1) * part]
            pieces[name][rank] = box
    return pieces


def layouts(suite):
    """Every piece of every tensor on both sides, as --explain prints them."""
    ended = suite.run(0, "plan", *case(suite), "--explain", "*")
    suite.check_code(ended, 0, "plan")
    with open(files(suite)[0], encoding="utf-8") as file:
        model = json.load(file)
    with open(files(suite)[1], encoding="utf-8") as file:
        system = json.load(file)
    sides = {"train": expected_pieces(model, system["train"], True),
             "gen": expected_pieces(model, system["generation"], False)}  # fmt: skip
    found = {"train": {}, "gen": {}}
    for line in ended.out.splitlines():
        if re.fullmatch(r"(model|lm_head)\.\S+", line):
            tensor = line
        elif match := re.match(r"(train|gen): ", line):
            side = match[1]
        elif match := re.match(r" +(\d+)  tp=\d+ ep=\d+ pp=\d+  (\[.*?\])", line):
            box = [list(map(int, part.split(":"))) for part in re.findall(r"\d+:\d+", match[2])]
            found[side].setdefault(tensor, {})[int(match[1])] = box
    for side, expected in sides.items():
        suite.check(len(expected) > 20 and set(found[side]) == set(expected), f"{side}: {len(found[side])} tensors", ended)
        for name, pieces in expected.items():
            suite.check(found[side].get(name) == pieces, f"{side} {name}: {found[side].get(name)}, not {pieces}", ended)


def case_file(suite):
    """The same as keys of a case file, whose paths are relative to it; a policy there is named with its place."""
    for part in files(suite):
        shutil.copy(part, suite.path())
    text = '[m2n]\nmodel = "small.model.json"\nsystem = "small.system.json"\n[refit]\nexecutor = "golden"\n'
    with open(suite.path("case.toml"), "w", encoding="utf-8") as file:
        file.write(text)
    ended = suite.run(0, "plan", "case.toml", "--explain", "lm_head.weight")
    suite.check_code(ended, 0, "a case file")
    suite.check("EP2xDP2xPP2 as listed, 4 ranks" in ended.out and "TP2xDP2 as listed" in ended.out, "its sides", ended)
    suite.check_code(suite.run(0, "plan", "case.toml", "--json", "plan.json", "--force"), 0, "as JSON")
    plan = suite.result("plan.json", ended)
    suite.check((plan["train"]["trainer"], plan["gen"]["engine"]) == ("listed", "listed"), f"{plan['gen']}", ended)
    suite.check("note           golden broadcasts whole shards" in ended.out, "golden's copies", ended)
    with open(suite.path("case.toml"), "a", encoding="utf-8") as file:
        file.write('bulk = "all"\n')
    ended = suite.run(0, "plan", "case.toml")
    suite.check_code(ended, 2, "a policy in a case file")
    suite.check("case.toml:6:1: refit.bulk: means nothing" in ended.err, "its place", ended)


def runs(suite):
    """All executors move it; the first layer alone leaves train's second stage with nothing but the last tensors."""
    for executor in ("direct", "p2p", "golden"):
        ended = suite.run(8, "run", *case(suite), "--executor", executor, "--steps", 2, "--json", "done.json", "--force",
                          "--m2n-metrics", "metrics.json")  # fmt: skip
        suite.check_code(ended, 0, executor)
        done = suite.result("done.json", ended)
        suite.check(done["verification"]["tensors_wrong"] == 0 and done["verification"]["elements"] > 0, executor, ended)
        suite.check(done["payload"]["misc_bytes"] == 0, f"{executor}: misc {done['payload']}", ended)
        metrics = suite.result("metrics.json", ended)
        head = {key: metrics[key] for key in ("schema", "schema_version", "benchmark", "world_size", "iterations")}
        suite.check(head == {"schema": "nccl_m2n.benchmark.metrics", "schema_version": 1, "benchmark": "refit",
                             "world_size": 8, "iterations": 2}, f"metrics {head}")  # fmt: skip
        (metric,) = metrics["metrics"]
        suite.check(set(metric) == {"name", "type", "unit", "attributes", "values"}, f"metric {metric}")
        seconds = [value / 1e3 for value in metric["values"]]
        same = all(abs(a - b) < 1e-9 for a, b in zip(seconds, done["weight_sync"]["samples"]))
        suite.check(metric["unit"] == "milliseconds" and len(seconds) == 2 and same, f"samples {seconds}", ended)
    ended = suite.run(8, "run", *case(suite), "--layers", 1, "--steps", 1)
    suite.check_code(ended, 0, "one layer")
    ended = suite.run(8, "run", *case(suite), "--inject", "stale-refit", "--steps", 1)
    suite.check_code(ended, 1, "an injected bug")


def mistakes(suite):
    model, system = files(suite)
    with open(system, encoding="utf-8") as file:
        good = json.load(file)

    def refused(what, words, *arguments, model_text=None, system_text=None):
        paths = [model, system]
        for i, text in enumerate((model_text, system_text)):
            if text is not None:
                paths[i] = suite.path(f"wrong-{i}.json")
                with open(paths[i], "w", encoding="utf-8") as file:
                    file.write(text if isinstance(text, str) else json.dumps(text))
        ended = suite.run(0, "plan", "--m2n-model", paths[0], "--m2n-system", paths[1], *arguments)
        suite.check_code(ended, 2, what)
        for word in words:
            suite.check(word in ended.err, f"{what}: does not say '{word}'", ended)

    def tensor(**entry):
        return {"model.layers.0.self_attn.q_proj.weight": {"shape": [8, 8], "dtype": "BF16", **entry}}

    refused("no JSON", ("not valid JSON",), model_text="{")
    refused("a list", ("not a JSON object",), model_text="[1]")
    refused("nothing", ("lists no tensors",), model_text={})
    refused("a number", ("q_proj.weight is not an object",), model_text={"q_proj.weight": 1})
    for shape in ("8", [], [0, 8], [8.5, 8], [1, 2, 3, 4], [2**31, 2**31, 2**31], [2**70]):
        refused(f"shape {shape}", ("shape must be a list of 1 to 3",), model_text=tensor(shape=shape))
    for dtype in ("I64", "BF17", 3):
        refused(f"dtype {dtype}", ("is none of F32",), model_text=tensor(dtype=dtype))
    refused("uneven", ("generation: 1 tensors cannot be cut", "dimension 0 is not divisible by 2"),
            model_text=tensor(shape=[7, 8]))  # fmt: skip
    experts = {f"a.layers.0.experts.{e}.up_proj.weight": {"shape": [4, 4 + e], "dtype": "BF16"} for e in (0, 1)}
    refused("experts", ("differs from the other experts",), model_text=experts)
    refused("a huge layer", ("more than 10000 layers",), model_text={"layers.99999.x": {"shape": [1]}})
    refused("no side", ("generation is missing",), system_text={"train": good["train"]})
    for key, value in (("num_gpus", 0), ("tp_size", "2"), ("pp_size", 65537), ("num_gpus", 3)):
        wrong = {**good, "train": {**good["train"], key: value}}
        refused(f"{key} {value}", (f"train{'' if value == 3 else '.' + key}",), system_text=wrong)
    refused("dp", ("generation: num_gpus 4 is not",),
            system_text={**good, "generation": {**good["generation"], "dp_size": 3}})  # fmt: skip
    most = dict.fromkeys(("tp_size", "cp_size", "ep_size", "dp_size", "pp_size"), 65536)
    for side in ("train", "generation"):
        refused(f"a huge {side}", (f"{side}: num_gpus 4 is",), system_text={**good, side: {**most, "num_gpus": 4}})
    refused("a layout", ("--train: train.layout: means nothing with m2n.model",), "--train", "TP2")
    refused("a policy", ("--bulk: refit.bulk: means nothing with m2n.model",), "--bulk", "ffn")
    ended = suite.run(0, "plan", "--m2n-model", model)
    suite.check_code(ended, 2, "one file")
    suite.check("m2n.system" in ended.err, "one file", ended)
    ended = suite.run(0, "plan", "--m2n-model", model, "--m2n-system", suite.path("absent.json"))
    suite.check_code(ended, 2, "no file")
    suite.check("absent.json: there is no such file" in ended.err, "no file", ended)


Suite(__doc__).main(layouts, case_file, runs, mistakes)
