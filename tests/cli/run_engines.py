"""Several engines in one refit: each is given what it gets alone, is proved by itself, and is named where it is wrong.

The oracle are dumps of runs with one engine, which oracle_test.py compares with what the real engines hold.

    run_engines.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER [--whole]
"""

import csv
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import check_result, dump_of_engine  # noqa: E402

SMALL = ("--model", "qwen3-0.6b-small", "--layers", 2)
EXECUTORS = ("golden", "p2p", "direct")
POLICIES = ("all", "whitelist", "ffn")


def ranks_of(layout):
    """The ranks of "TP4xDP2", or of several engines."""
    total = 0
    for engine in layout.split("+"):
        ranks = 1
        for axis in engine.split("x"):
            ranks *= int(axis.lstrip("TPDEC")) if not axis.startswith("EP") else 1
        total += ranks
    return total


def run(suite, name, train, gen, *arguments, steps=1):
    ranks = ranks_of(train) + ranks_of(gen)
    return suite.run(
        ranks, "run", *arguments, "--train", train, "--gen", gen, "--steps", steps, "--warmup", 0, "--force",
        "--json", f"{name}.json",
    )  # fmt: skip


def good(suite, name, train, gen, *arguments, policy="all"):
    ended = run(suite, name, train, gen, "--bulk", policy, *arguments)
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    check_result(suite, ended, result, policy, name, refits=1)
    return ended, result


def check_engines(suite, ended, result, dump, alone, where):
    """Each engine holds what the run of it alone left, and counts what that run counted."""
    first = 0
    for number, (engine, (name, single)) in enumerate(zip(result["gen"]["engines"], alone)):
        suite.check(engine["layout"] == single["gen"]["layout"], f"{where}: {engine}", ended)
        suite.check(engine["ranks"] == single["gen"]["ranks"], f"{where}: {engine}", ended)
        suite.check(engine["payload_bytes"] == single["payload"]["total_bytes"], f"{where}: {engine}", ended)
        for key in ("tensors", "elements", "tensors_wrong", "elements_wrong"):
            right = single["verification"][key]
            suite.check(engine[key] == right, f"{where}: engine {number}: {key} {engine[key]}, not {right}", ended)
        folder = dump_of_engine(suite, dump, first, engine["ranks"])
        suite.check_code(suite.run(0, "compare", name, folder), 0, f"{where}: engine {number}")
        first += engine["ranks"]
    suite.check(first == result["gen"]["ranks"] and len(result["gen"]["engines"]) == len(alone), f"{where}: ranks", ended)


def single(suite, train, gen, *arguments):
    """A run with one engine: its dump and its result."""
    name = "alone-" + "-".join([train, gen, *(str(one).replace("/", "-") for one in arguments)])[-120:]
    if not os.path.exists(suite.path(f"{name}.json")):
        good(suite, name, train, gen, *arguments, "--dump-gen", name)
    return name, suite.result(f"{name}.json")


def joined(suite, name, train, gens, *arguments, options=()):
    """A run with all engines; `options`: of each engine by itself."""
    own = [option for e, keys in enumerate(options) for key in keys for option in ("--set", f"gen.{e}.{key}")]
    ended, result = good(suite, name, train, "+".join(gens), *own, *arguments, "--dump-gen", name)
    alone = []
    for e, gen in enumerate(gens):
        keys = [option for key in (options[e] if options else ()) for option in ("--set", f"gen.{key}")]
        alone.append(single(suite, train, gen, *SMALL, *keys) if not options else single(suite, train, gen, *arguments, *keys))
    check_engines(suite, ended, result, name, alone, name)
    return ended, result


def clean(suite):
    """Singles of an older executable judge nothing."""
    for file in os.listdir(suite.work):
        if file.startswith("alone-") and file.endswith(".json"):
            os.remove(suite.path(file))


def every_executor_and_policy(suite):
    """3, 4, 6, 8 and 12 ranks; policies and executors take turns, and with --whole each row has each executor."""
    rows = (("TP1", ("TP1", "TP1")), ("TP1", ("TP2", "TP1")), ("TP2", ("TP2", "TP1xDP2")), ("TP2", ("TP4", "TP1", "TP1")),
            ("TP2xPP2", ("TP4", "TP1xDP4")))  # fmt: skip
    for turn, (train, gens) in enumerate(rows):
        every = "--whole" in suite.rest or gens == ("TP2", "TP1xDP2")
        for number, executor in enumerate(EXECUTORS):
            if not every and number != turn % 3:
                continue
            policy = POLICIES[(turn + number) % len(POLICIES)]
            name = f"{train}-to-{'+'.join(gens)}-{executor}"
            ended, result = good(
                suite, name, train, "+".join(gens), *SMALL, "--executor", executor, "--dump-gen", name, policy=policy
            )
            check_engines(suite, ended, result, name, [single(suite, train, gen, *SMALL) for gen in gens], name)
    ended = run(suite, "blacklist", "TP2", "TP2+TP1", *SMALL, "--executor", "p2p", "--bulk", "blacklist")
    suite.check_code(ended, 0, "blacklist")


def vllm_and_sglang(suite):
    """Unlike engines, with experts: keys of one, as options and as [[gen]]."""
    moe = ("--model", "qwen3-30b-a3b-small", "--layers", 2)
    keys = ((), ("engine=sglang", "attn_dp_size=2"))
    _, result = joined(suite, "mixed", "TP2xEP2", ("TP2xEP2", "TP4xEP2"), *moe, "--executor", "direct", options=keys)
    suite.check(result["gen"]["engine"] == "vllm+sglang", f"{result['gen']}")
    suite.check(result["settings"]["gen.1.attn_dp_size"] == 2, f"{result['settings']}")
    places = [rank["coordinates"]["engine"] for rank in result["environment"]["ranks"] if rank["group"] == "gen"]
    suite.check(places == [0, 0, 1, 1, 1, 1], f"coordinates {places}")
    with open(suite.path("mixed.toml"), "w", encoding="utf-8") as file:
        file.write(f'[model]\nconfig = "{suite.model("qwen3-30b-a3b-small")}"\nlayers = 2\n[train]\nlayout = "TP2xEP2"\n'
                   '[[gen]]\nlayout = "TP2xEP2"\n[[gen]]\nengine = "sglang"\nlayout = "TP4xEP2"\nattn_dp_size = 2\n')  # fmt: skip
    ended = suite.run(8, "run", "mixed.toml", "--steps", 1, "--warmup", 0, "--executor", "direct", "--force",
                      "--json", "mixed-file.json")  # fmt: skip
    suite.check_code(ended, 0, "[[gen]]")
    same = suite.result("mixed-file.json", ended)
    for part in ("payload", "wire", "gen"):
        suite.check(same[part] == result[part], f"[[gen]]: {part} {same[part]}, not {result[part]}", ended)


def drafter_and_derived(suite):
    """A main model and its drafter, one of which derives storages of its weights."""
    model = ("--model", "deepseek-v3-small")
    keys = (("derived=true",), ("mtp=only",))
    joined(suite, "drafter", "TP2xEP2", ("TP2xEP2", "TP2"), *model, "--executor", "p2p", options=keys)
    joined(suite, "frozen", "TP2", ("TP1", "TP2"), *model, "--executor", "direct", "--set", "train.mtp=false",
           options=((), ("mtp=with", "derived=true")))  # fmt: skip


def quantised(suite):
    """Weights are quantised once, for all engines."""
    model = ("--model", "qwen3-8b-small", "--layers", 2, "--precision", "bf16:fp8")
    name = "quantised"
    ended = run(suite, name, "TP2", "TP2+TP1", *model, "--executor", "p2p", "--dump-gen", name)
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    first = 0
    for gen, engine in zip(("TP2", "TP1"), result["gen"]["engines"]):
        alone = run(suite, f"{name}-{gen}", "TP2", gen, *model, "--executor", "p2p", "--dump-gen", f"{name}-{gen}")
        suite.check_code(alone, 0, f"{name} {gen}")
        folder = dump_of_engine(suite, name, first, engine["ranks"])
        suite.check_code(suite.run(0, "compare", f"{name}-{gen}", folder), 0, f"{name}: {gen}")
        first += engine["ranks"]


def one_is_wrong(suite):
    """An error on a rank of engine 1 is its own: engine 0 is said to be right, in every output."""
    name = "wrong"
    ended = run(suite, name, "TP2", "TP1+TP2", *SMALL, "--inject", "swap-gate-up", "--csv", f"{name}.csv", steps=2)
    suite.check_code(ended, 1, name)
    result = suite.result(f"{name}.json", ended)
    right, wrong = result["gen"]["engines"]
    suite.check(right["tensors_wrong"] == 0 and right["elements_wrong"] == 0 and right["kl"]["max"] == 0, f"{right}")
    suite.check(wrong["tensors_wrong"] > 0 and wrong["kl"]["max"] > 0, f"{wrong}")
    found = result["verification"]
    suite.check(found["elements_wrong"] == wrong["elements_wrong"], f"{found['elements_wrong']}")
    suite.check({one["gen_rank"] for one in found["wrong"]} == {2}, f"{found['wrong']}")
    suite.check({one["engine"] for one in found["wrong"]} == {1}, f"{found['wrong']}")
    message = result["error"]["message"]
    suite.check("wrong on gen rank 2 (engine 1, TP2)" in message, message)
    suite.check("engine 0 (TP1) is right" in message, message)
    suite.check("is wrong on gen rank 2 (engine 1, TP2)" in ended.err, "stderr does not name the engine", ended)
    with open(suite.path(f"{name}.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    suite.check([row["engine_elements_wrong"].split("+")[0] for row in rows] == ["0", "0"], f"{rows}")
    suite.check([row["engine_elements_wrong"].split("+")[1] != "0" for row in rows] == [True, True], f"{rows}")


def refusals(suite):
    """Exit code 2, in words."""
    rows = (
        (("--gen", "TP2+"), 'gen.layout "TP2+" has no layout on one side of a +'),
        (("--gen", "TP2+TP1x"), "engine 1: gen.layout"),
        (("--gen", "TP2++TP1"), 'gen.layout "TP2++TP1" has no layout on one side of a +'),
        (("--gen", "TP2+TP3"), "engine 1: "),
        (("--gen", "TP2+TP1", "--set", "gen.1.precision=fp32"), "engine 1: gen.precision: is not that of engine 0"),
        (("--gen", "TP2+TP1", "--set", "gen.2.engine=vllm"), "there is no gen.2: the engines are gen.0 to gen.1"),
        (("--gen", "TP2+TP1", "--set", "run.strict_upstream=merged"), "it refits one engine, not 2"),
        (("--gen", "TP2+TP1", "--executor", "m2n"), "its operation has one gen mesh, and there are 2 engines"),
    )
    for arguments, message in rows:
        ended = suite.run(0, "plan", *SMALL, "--train", "TP1", *arguments)
        suite.check_code(ended, 2, f"{arguments}")
        suite.check(message in ended.err, f"{arguments}: does not say {message}", ended)
    files = {
        "layouts.toml": ('[train]\nlayout = "TP1"\n[[gen]]\nlayout = "TP1"\n[[gen]]\n', "engine 1: gen.layout is required"),
        "mixture.toml": ('gen = [{layout = "TP1"}, 3]\n[train]\nlayout = "TP1"\n', "mixture.toml:1:1"),
        "unknown.toml": ('[train]\nlayout = "TP1"\n[[gen]]\nlayout = "TP1"\n[[gen]]\nlayot = "TP1"\n', ":6:1: unknown key gen.layot"),
    }
    for name, (text, message) in files.items():
        with open(suite.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        ended = suite.run(0, "plan", name, *SMALL)
        suite.check_code(ended, 2, name)
        suite.check(message in ended.err, f"{name}: does not say {message}", ended)


def planned_and_diagnosed(suite):
    """`plan --explain` shows each engine's ranks, and a dump of all engines says by itself how many they were."""
    ended = suite.run(0, "plan", *SMALL, "--train", "TP2", "--gen", "TP2+TP1", "--explain", "model.norm.weight")
    suite.check_code(ended, 0, "plan")
    for text in ("TP2+TP1", "engine=0 tp=1", "engine=1 tp=0"):
        suite.check(text in ended.out, f"plan does not show {text}", ended)
    for inject, status, said in (((), "equal", ""), (("--inject", "swap-gate-up"), "wrong", "gen rank 2")):
        name = f"diagnosed-{status}"
        run(suite, name, "TP2", "TP1+TP2", *SMALL, *inject, "--dump-gen", name, "--dump-train", f"{name}-train")
        ended = suite.run(0, "diagnose", "--gen-dump", name, "--train-dump", f"{name}-train", "--force",
                          "--json", f"{name}-diagnosis.json")  # fmt: skip
        found = suite.result(f"{name}-diagnosis.json", ended)
        suite.check(found.get("status") == status and found.get("gen_ranks") == 3, f"{name}: {found}", ended)
        if status == "wrong":
            suite.check(all(one["gen_ranks"] == [2] for one in found["findings"]), f"{name}: {found['findings']}", ended)
            suite.check(any(bug["name"] == "swap-gate-up" for bug in found["bugs"]), f"{name}: {found['bugs']}", ended)


Suite(__doc__).main(clean, every_executor_and_policy, vllm_and_sglang, drafter_and_derived, quantised, one_is_wrong,
                    refusals, planned_and_diagnosed)  # fmt: skip
