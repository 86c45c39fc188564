"""Injected bugs are found and named; expectations turn a finding into a success, and a missed one into a failure.

    run_injections.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402
from job import Suite  # noqa: E402

NORM = "model.layers.0.input_layernorm.weight"


def inject(suite, name, *arguments, ranks=4, train="TP2", gen="TP2", bug=None):
    """A run with a bug; the case `name`.toml beside its results carries what is expected of it, if it is there."""
    return suite.run(
        ranks, "run", *arguments, "--train", train, "--gen", gen, "--steps", 2, "--warmup", 0, "--force",
        "--inject", bug or name, "--json", f"{name}.json",
    )  # fmt: skip


def qwen3(suite):
    return ("--checkpoint", suite.checkpoint("qwen3"), "--precision", "fp32")


def config(suite):
    with open(os.path.join(suite.checkpoint("qwen3"), "config.json"), encoding="utf-8") as file:
        return json.load(file)


def write_case(suite, name, text):
    with open(suite.path(name), "w", encoding="utf-8") as file:
        file.write(text)
    return name


def check_wrong(suite, ended, name):
    """The run failed with wrong data; its JSON says where."""
    suite.check_code(ended, 1, name)
    result = suite.result(f"{name}.json", ended)
    suite.check(result["status"] == "failed" and result["exit_code"] == 1, f"{name}: {result['status']}", ended)
    suite.check(result["error"]["kind"] == "data", f"{name}: {result['error']}", ended)
    return result


def every_bug_is_tested(suite):
    """Here, or by a case of inputs/bugs."""
    listed = {line.split()[0] for line in suite.run(0, "list", "injections").out.splitlines()}
    tested = {"swap-gate-up", "drop-tensor", "corrupt-replica", "lost-update", "stale-refit", "skip-send",
              "stale-kv-scales", "default-kv-scales", "stale-derived", "cp-as-tp"}  # fmt: skip
    suite.check(tested <= listed, f"refit list injections: {tested - listed} are not there")
    replayed = {line.split()[0] for line in suite.run(0, "list", "bugs").out.splitlines()}
    suite.check(listed - tested <= replayed, f"injections without a test: {listed - tested - replayed}")


def swap_gate_up(suite):
    """All gate and up elements of the last gen rank, and nothing else."""
    ended = inject(suite, "swap-gate-up", *qwen3(suite))
    found = check_wrong(suite, ended, "swap-gate-up")["verification"]
    shape = config(suite)
    half = shape["intermediate_size"] // 2
    expected = [
        {"tensor": f"model.layers.{layer}.mlp.{which}_proj.weight", "gen_rank": 1,
         "elements_wrong": half * shape["hidden_size"], "first_index": [half, 0]}
        for layer in range(shape["num_hidden_layers"]) for which in ("gate", "up")
    ]  # fmt: skip
    suite.check(sorted(found["wrong"], key=lambda wrong: wrong["tensor"]) == expected, f"wrong: {found['wrong']}", ended)
    suite.check(found["elements_wrong"] == sum(wrong["elements_wrong"] for wrong in expected), f"{found}", ended)
    suite.check(found["tensors_wrong"] == len(expected), f"{found}", ended)
    suite.check(expected[0]["tensor"] in ended.out, "stdout does not name the tensor", ended)


def named_without_counting(suite):
    """Without any time to count, tensors and rank are named, at once and in every output, and that is the verdict."""
    options = ("--set", "run.count_seconds=0", "--junit", "named.xml", "--hdf5", "named.h5")
    ended = inject(suite, "named", *qwen3(suite), *options, bug="swap-gate-up")
    result = check_wrong(suite, ended, "named")
    found = result["verification"]
    layers = range(config(suite)["num_hidden_layers"])
    tensors = {f"model.layers.{layer}.mlp.{which}_proj.weight" for layer in layers for which in ("gate", "up")}
    wrong = [(entry["tensor"], entry["gen_rank"]) for entry in found["wrong"]]
    suite.check(sorted(wrong) == sorted((tensor, 1) for tensor in tensors), f"wrong: {wrong}", ended)
    for entry in found["wrong"]:
        suite.check((entry["counted"], entry["elements_wrong"], entry["first_index"]) == (False, 1, []), f"{entry}", ended)
    suite.check(found["tensors_not_counted"] == found["tensors_wrong"] == len(tensors), f"{found}", ended)
    suite.check(found["elements_wrong"] == len(tensors), f"a lower bound: {found['elements_wrong']}", ended)
    first = found["wrong"][0]["tensor"]
    for what, text in (("stderr", f"{first} is wrong on gen rank 1"),):
        suite.check(text in ended.err, f"{what} does not name the tensor", ended)
    table = " ".join(ended.out.replace("#", " ").split())
    for text in (f"{first} on gen rank 1: not counted", f"{len(tensors)} tensors not counted to the end", f">={len(tensors)}"):
        suite.check(text in table, f"the table lacks {text!r}", ended)
    with open(suite.path("named.xml"), encoding="utf-8") as file:
        suite.check(f"{first} on gen rank 1: not counted" in file.read(), "JUnit does not name the tensor", ended)
    row = 'expect.outcome = "mismatch"\n[[expect.mismatch]]\ntensors = "*"\nfraction = 0.5\n'
    case = write_case(suite, "uncounted.toml", f'model.checkpoint = "{suite.checkpoint("qwen3")}"\n{row}')
    ended = inject(suite, "uncounted", case, "--precision", "fp32", *options[:2], bug="swap-gate-up")
    suite.check_code(ended, 1, "a part that is not known")
    suite.check("not counted" in suite.result("uncounted.json", ended)["error"]["message"], "uncounted", ended)


def swap_gate_up_kl(suite):
    """With weights of a natural size the KL proxy is of order 10 where slices are misplaced, and 0 where they are not."""
    model = ("--model", "qwen3-0.6b-small", "--layers", 2)
    ended = inject(suite, "swap-kl", *model, bug="swap-gate-up")
    kl = check_wrong(suite, ended, "swap-kl")["verification"]["kl"]
    suite.check(1 <= kl["max"] <= 50 and 0 < kl["mean"] < kl["max"], f"KL {kl}", ended)
    suite.check(re.search(r"\.(gate|up)_proj\.", kl["tensor"]) is not None, f"KL {kl}", ended)


def swap_gate_up_expected(suite):
    """Half of gate and of up, on one of two ranks: expected, it passes; another fraction, or one tensor more, does not."""
    head = f'model.checkpoint = "{suite.checkpoint("qwen3")}"\nexpect.outcome = "mismatch"\n'
    row = '[[expect.mismatch]]\ntensors = "*.{}_proj.weight"\nfraction = {}\n'
    right = write_case(suite, "right.toml", head + row.format("gate", 0.5) + row.format("up", 0.5))
    missed = write_case(suite, "missed.toml", head + row.format("gate", 0.25) + row.format("up", 0.5))
    fewer = write_case(suite, "fewer.toml", head + row.format("gate", 0.5))
    for case, code, text in ((right, 0, ""), (missed, 1, "0.2500"), (fewer, 1, "up_proj")):
        name = os.path.splitext(case)[0]
        ended = inject(suite, name, case, "--precision", "fp32", bug="swap-gate-up")
        suite.check_code(ended, code, case)
        result = suite.result(f"{name}.json", ended)
        suite.check(result["status"] == ("failed" if code else "passed"), f"{case}: {result['status']}", ended)
        suite.check(text in result.get("error", {}).get("message", ""), f"{case}: {result.get('error')}", ended)


def drop_tensor(suite):
    ended = inject(suite, "drop-tensor", *qwen3(suite))
    found = check_wrong(suite, ended, "drop-tensor")["verification"]
    name = "model.layers.0.self_attn.o_proj.weight"
    wrong = [(entry["tensor"], entry["gen_rank"]) for entry in found["wrong"]]
    suite.check(wrong == [(name, 0), (name, 1)], f"wrong: {found['wrong']}", ended)
    shape = config(suite)
    elements = shape["hidden_size"] * shape["num_attention_heads"] * shape["head_dim"]
    suite.check(found["elements_wrong"] == elements, f"{found}", ended)


def corrupt_replica(suite):
    """Found although each gen rank may have its weights from a good replica."""
    for gen, ranks in (("TP2", 4), ("TP1", 3)):
        name = f"corrupt-replica-{gen}"
        ended = inject(suite, name, *qwen3(suite), gen=gen, ranks=ranks, bug="corrupt-replica")
        result = check_wrong(suite, ended, name)
        text = ended.out + ended.err + result["error"]["message"]
        suite.check(NORM in result["error"]["message"], f"{name}: {result['error']}", ended)
        suite.check("train rank 1" in text, f"{name}: the replica is not named", ended)
        if gen == "TP1":
            suite.check(result["verification"]["elements_wrong"] == 0, "the good replica was not the source", ended)
        odd = result["verification"]["wrong_replicas"]
        suite.check([(o["tensor"], o["train_rank"]) for o in odd] == [(NORM, 1)], f"{name}: wrong_replicas {odd}", ended)
    expected = ("--set", "expect.outcome=mismatch")
    ended = inject(suite, "replica-expected", *qwen3(suite), *expected, gen="TP1", ranks=3, bug="corrupt-replica")
    suite.check_code(ended, 0, "an expected wrong replica")


def lost_update(suite):
    ended = inject(suite, "lost-update", *qwen3(suite))
    result = check_wrong(suite, ended, "lost-update")
    suite.check(NORM in result["error"]["message"], f"{result['error']}", ended)
    suite.check("refit 2: train rank 1" in " ".join(ended.out.replace("#", " ").split()), "replica not named", ended)


def stale_refit(suite):
    ended = inject(suite, "stale-refit", *qwen3(suite))
    found = check_wrong(suite, ended, "stale-refit")["verification"]
    suite.check(found["elements_wrong"] == found["elements"], f"{found['elements_wrong']} elements wrong", ended)
    suite.check(found["tensors_wrong"] == found["tensors"], f"{found['tensors_wrong']} tensors wrong", ended)


def skip_send(suite):
    """The peers wait for ever: it is said where every rank is, the results are written, and the job ends by itself."""
    for executor in ("golden", "p2p"):
        name = f"skip-send-{executor}"
        waits = ("--executor", executor, "--timeout", 3)
        ended = inject(suite, name, *qwen3(suite), *waits, bug="skip-send")
        suite.check_code(ended, 3, name)
        for rank in range(4):
            line = re.search(rf"^refit: rank {rank} \(host \S+, pid \d+\) .* in phase .*$", ended.err, re.MULTILINE)
            suite.check(line is not None, f"{name}: nobody says where rank {rank} is", ended)
        stuck = re.search(r"phase bulk.* tensor model\.\S+.* peer 0\b", ended.err)
        suite.check(stuck is not None, f"{name}: nobody names tensor and peer", ended)
        result = suite.result(f"{name}.json", ended)
        suite.check(result["status"] == "error" and result["exit_code"] == 3, f"{name}: {result['status']}", ended)
        suite.check(result["error"]["kind"] == "timeout", f"{name}: {result['error']}", ended)
        suite.check(result["error"].get("phase"), f"{name}: no phase in {result['error']}", ended)


def skip_send_expected(suite):
    waits = ("--executor", "p2p", "--timeout", 3, "--set", "expect.outcome=timeout")
    ended = inject(suite, "skip-expected", *qwen3(suite), *waits, bug="skip-send")
    suite.check_code(ended, 0, "an expected timeout")
    result = suite.result("skip-expected.json", ended)
    suite.check(result["status"] == "passed", f"{result['status']}", ended)
    ended = inject(suite, "no-timeout", *qwen3(suite), "--set", "expect.outcome=timeout", bug="drop-tensor")
    suite.check_code(ended, 1, "a timeout that does not come")


def scales_of_the_kv_cache(suite):
    """Attention uses scales of an earlier refit, or 1 where others are due: the parameters are right, the buffers not."""
    model = ("--model", "qwen3-4b-small", "--layers", 2, "--precision", "fp8", "--set", "gen.kv_cache_dtype=fp8")
    names = [f"model.layers.{layer}.self_attn.attn._{which}_scale" for layer in (0, 1) for which in "qkv"]
    for bug in ("stale-kv-scales", "default-kv-scales"):
        ended = inject(suite, bug, *model)
        found = check_wrong(suite, ended, bug)["verification"]
        expected = [{"tensor": name, "gen_rank": rank, "elements_wrong": 1, "first_index": [0]}
                    for rank in (0, 1) for name in names]  # fmt: skip
        suite.check(found["wrong"] == expected, f"{bug}: {found['wrong']}", ended)
        suite.check(found["tensors_wrong"] == 6 and found["elements_wrong"] == 12, f"{bug}: {found}", ended)
        suite.check(found["kl"]["max"] == 0, f"{bug}: {found['kl']}", ended)
    row = 'expect.outcome = "mismatch"\n[[expect.mismatch]]\ntensors = "*.attn._[qkv]_scale"\nfraction = 1.0\n'
    ended = inject(suite, "stale-expected", write_case(suite, "stale.toml", row), *model, bug="stale-kv-scales")
    suite.check_code(ended, 0, "stale-expected")


def derived_weights(suite):
    """What latent attention multiplies with is made anew in every refit, of the bytes that have arrived; or found stale."""
    model = ("--checkpoint", suite.checkpoint("deepseek_v3"), "--precision", "fp32", "--set", "gen.derived=true")
    with open(os.path.join(suite.checkpoint("deepseek_v3"), "config.json"), encoding="utf-8") as file:
        shape = json.load(file)
    nope, value, rank = (shape[key] for key in ("qk_nope_head_dim", "v_head_dim", "kv_lora_rank"))
    heads = shape["num_attention_heads"] // 2
    layers = shape["num_hidden_layers"]

    ended = suite.run(4, "run", *model, "--train", "TP2", "--gen", "TP2", "--steps", 2, "--warmup", 0, "--force",
                      "--json", "derived.json", "--dump-gen", "derived")  # fmt: skip
    if suite.check_code(ended, 0, "derived weights"):
        result = suite.result("derived.json", ended)
        suite.check(any("W_UK_T" in note for note in result["notes"]), f"notes {result['notes']}", ended)
        suite.check(result["settings"]["derived"] is True, f"settings {result['settings']}", ended)
        for gen_rank in range(2):
            held = safetensors.read(suite.path("derived", f"gen-rank-{gen_rank:05}.safetensors"))
            for layer in range(layers):
                attention = f"model.layers.{layer}.self_attn."
                rows = split(held[attention + "kv_b_proj.weight"].data, 4 * rank)
                keys, values = (held[f"{attention}mla_attn.mla_attn.{name}"] for name in ("W_UK_T", "W_UV"))
                suite.check(keys.shape == (heads, nope, rank) and values.shape == (heads, rank, value), f"{keys.shape}")
                for head in range(heads):
                    own = rows[head * (nope + value) : (head + 1) * (nope + value)]
                    suite.check(split(keys.data, 4 * rank)[head * nope : (head + 1) * nope] == own[:nope], "W_UK_T")
                    columns = [b"".join(column) for column in zip(*(split(row, 4) for row in own[nope:]))]
                    suite.check(split(values.data, 4 * value)[head * rank : (head + 1) * rank] == columns, "W_UV")

    ended = inject(suite, "stale-derived", *model)
    found = check_wrong(suite, ended, "stale-derived")["verification"]
    names = [f"model.layers.{layer}.self_attn.kv_b_proj.weight (derived)" for layer in range(layers)]
    wrong = sorted((entry["tensor"], entry["gen_rank"]) for entry in found["wrong"])
    suite.check(wrong == sorted((name, gen_rank) for name in names for gen_rank in (0, 1)), f"wrong: {wrong}", ended)
    suite.check(found["elements_wrong"] == layers * 2 * heads * (nope + value) * rank, f"{found}", ended)
    for words, needs in ((qwen3(suite), "gen.derived: means nothing for a model without latent attention"),
                         (("--model", "deepseek-v3-small", "--precision", "fp8"), "gen.derived: W_UK_T and W_UV")):
        ended = suite.run(4, "run", *words, "--train", "TP2", "--gen", "TP2", "--set", "gen.derived=true")  # fmt: skip
        suite.check_code(ended, 2, needs)
        suite.check(needs in ended.err, needs, ended)
    ended = inject(suite, "not-derived", *model[:4], bug="stale-derived")
    suite.check_code(ended, 2, "nothing is derived")
    suite.check("it needs gen.derived = true" in ended.err, "what stale-derived needs", ended)


def split(data, size):
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]


def cp_as_tp(suite):
    """Of two ranks with the same weights the second one's part is the first's."""
    ended = inject(suite, "cp-as-tp", *qwen3(suite), ranks=3, train="CP2", gen="TP1")
    found = check_wrong(suite, ended, "cp-as-tp")["verification"]
    names = {wrong["tensor"].split(".")[-2] for wrong in found["wrong"]}
    suite.check(names == {"o_proj", "down_proj"}, f"wrong: {found['wrong']}", ended)
    shape = config(suite)
    wide = shape["num_attention_heads"] * shape["head_dim"] + shape["intermediate_size"]
    expected = shape["num_hidden_layers"] * shape["hidden_size"] * wide // 2
    suite.check(found["elements_wrong"] == expected, f"{found['elements_wrong']}, not {expected}", ended)


def changes_nothing(suite):
    """A bug that this run could not show is refused, with what it needs."""
    small, nano = ("--model", "qwen3-0.6b-small"), ("--model", "qwen3-30b-a3b-small", "--layers", 2)
    rows = (
        ("stale-refit", 2, "TP1", "TP1", (*small, "--steps", 1), "two refits"),
        ("stale-refit", 2, "TP1", "TP1", (*small, "--set", "run.update=none"), 'two refits, and run.update = "perturb"'),
        ("lost-update", 3, "DP2", "TP1", (*small, "--steps", 1), "two refits"),
        ("corrupt-replica", 3, "PP2", "TP1", (*small, "--layers", 2), "a train rank 1 that stores the tensor"),
        ("B4-router-bytes", 2, "TP1", "TP1", (*nano, "--bulk", "ffn"), "the tensor on the bulk path"),
        ("B46-initial-slots", 3, "TP1", "TP2xEP2", nano, "a tensor for each expert, gen EP > 1"),
        ("B15-copy-race", 2, "TP1", "TP1", (*small, "--executor", "direct"), 'refit.executor = "p2p"'),
    )
    for bug, ranks, train, gen, words, needs in rows:
        ended = suite.run(ranks, "run", "--warmup", 0, "--train", train, "--gen", gen, "--inject", bug, *words)
        suite.check_code(ended, 2, f"{bug} {words}")
        said = f"run.inject: {bug} changes nothing in this job: it needs {needs}"
        suite.check(said in ended.err, f"{bug}: {needs}", ended)


Suite(__doc__).main(
    every_bug_is_tested, swap_gate_up, named_without_counting, swap_gate_up_kl, swap_gate_up_expected, drop_tensor, corrupt_replica, lost_update,
    stale_refit, skip_send, skip_send_expected, scales_of_the_kv_cache, derived_weights,
    cp_as_tp, changes_nothing
)  # fmt: skip
