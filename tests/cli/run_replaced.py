"""Engines that die, restart and come late (run.drill): who took part in which refit, who holds what at the end, and that the
others are not touched by it.

What takes part when is written down here by hand. What an engine holds at the end is compared with the dump of a run of that
engine alone, which never died.

    run_replaced.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import dump_of_engine  # noqa: E402

SMALL = ("--model", "qwen3-0.6b-small", "--layers", 2)
EXECUTORS = ("golden", "p2p", "direct")


def ranks_of(layout):
    """The ranks of each engine of "TP2xDP2+TP1"."""
    counts = []
    for engine in layout.split("+"):
        counts.append(1)
        for axis in engine.split("x"):
            counts[-1] *= int(axis.lstrip("TPDE")) if not axis.startswith("EP") else 1
    return counts


def run(suite, name, train, gen, refits, *arguments):
    ranks = sum(ranks_of(train)) + sum(ranks_of(gen))
    return suite.run(ranks, "run", *arguments, "--train", train, "--gen", gen, "--steps", refits, "--warmup", 0, "--force",
                     "--json", f"{name}.json", "--csv", f"{name}.csv", "--dump-gen", name)  # fmt: skip


def check_drill(suite, ended, name, gen, picture, joins):
    """`picture`: of each engine a character per refit, `#` where it takes part; `joins`: of each the refits before which it
    is made anew or late."""
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    parts, refits = picture.split(), len(picture.split()[0])
    with open(suite.path(f"{name}.csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    suite.check(len(rows) == refits, f"{name}: {len(rows)} rows", ended)
    held = [-1] * len(parts)
    for number, row in enumerate(rows, 1):
        there = [part[number - 1] == "#" for part in parts]
        held = [number if is_there else before for is_there, before in zip(there, held)]
        wrong = "+".join("0" if is_there else "" for is_there in there) if any(there) else ""
        suite.check(row["engine_elements_wrong"] == wrong, f"{name}: refit {number}: {row['engine_elements_wrong']}", ended)
        seconds = row["engine_weight_sync_seconds"].split("+")
        suite.check([one != "" for one in seconds] == there, f"{name}: refit {number}: seconds {seconds}", ended)
        suite.check(row["engine_version"] == "+".join(map(str, held)), f"{name}: refit {number}: {row['engine_version']}", ended)
        own = sum(float(one) for one in seconds if one)
        suite.check(float(row["weight_sync_seconds"]) >= 0.99 * max([float(one) for one in seconds if one] or [0]),
                    f"{name}: refit {number}: {row['weight_sync_seconds']} s, its engines {own} s", ended)  # fmt: skip
    for number, (engine, part) in enumerate(zip(result["gen"]["engines"], parts)):
        where = f"{name}: engine {number}"
        taken = [refit for refit, mark in enumerate(part, 1) if mark == "#"]
        suite.check(engine["refits"] == taken, f"{where}: {engine['refits']}", ended)
        suite.check(len(engine["weight_sync"]) == len(taken) and min(engine["weight_sync"]) > 0, f"{where}: seconds", ended)
        suite.check(engine["version"] == held[number], f"{where}: holds {engine['version']}", ended)
        dead = len(part.rstrip(".")) + 1 if part.endswith(".") else None
        suite.check(engine.get("dead_since") == dead, f"{where}: dead since {engine.get('dead_since')}", ended)
        joined = [one["before_refit"] for one in engine["joins"]]
        suite.check(joined == joins[number] and all(one["seconds"] > 0 for one in engine["joins"]), f"{where}: {engine['joins']}", ended)
        suite.check(engine["tensors"] > 0 and engine["elements_wrong"] == 0 and engine["bytes"] > 0, f"{where}: {engine}", ended)
    text = "; ".join(
        f"engine {e} holds version {engine['version']}" + (f", dead since refit {engine['dead_since']}" if "dead_since" in engine else "")
        for e, engine in enumerate(result["gen"]["engines"])
    )
    shown = " ".join(line[2:].strip() for line in ended.out.splitlines())
    suite.check(f"version {text}" in " ".join(shown.split()), f"{name}: the summary has no: version {text}", ended)
    idle = [refit for refit in range(1, refits + 1) if not any(part[refit - 1] == "#" for part in parts)]
    suite.check(len(result["weight_sync"]["samples"]) == refits - len(idle), f"{name}: {result['weight_sync']}", ended)
    noted = [note for note in result["notes"] if "no engine takes part in refit " + ", ".join(map(str, idle)) in note]
    suite.check(len(noted) == (1 if idle else 0), f"{name}: notes {result['notes']}", ended)
    suite.check(any("MPI ends the whole job" in note for note in result["notes"]), f"{name}: notes {result['notes']}", ended)
    suite.check(result["verification"]["refits"] == refits - len(idle), f"{name}: {result['verification']}", ended)
    for key in ("bound", "efficiency", "model_seconds"):
        suite.check(key not in result, f"{name}: has a {key}", ended)
    return result


def check_dumps(suite, ended, name, train, gen, picture, arguments):
    """An engine that lives holds what it would alone; a dead one leaves no dump."""
    first = 0
    for number, (layout, part) in enumerate(zip(gen.split("+"), picture.split())):
        ranks, refits = ranks_of(layout)[0], len(part)
        files = [suite.path(name, f"gen-rank-{first + rank:05}.safetensors") for rank in range(ranks)]
        if part.endswith("."):
            suite.check(not any(map(os.path.exists, files)), f"{name}: dead engine {number} left a dump", ended)
        else:
            alone = "alone-" + "-".join([train, layout, str(refits), *(str(one).replace("/", "-") for one in arguments)])[-120:]
            if not os.path.exists(suite.path(f"{alone}.json")):
                suite.check_code(run(suite, alone, train, layout, refits, *arguments), 0, alone)
            folder = dump_of_engine(suite, name, first, ranks)
            suite.check_code(suite.run(0, "compare", alone, folder), 0, f"{name}: engine {number}")
        first += ranks


def drilled(suite, name, train, gen, drill, picture, joins, *arguments, compared=None):
    """`compared`: the arguments that decide what arrives; else all of them."""
    refits = len(picture.split()[0])
    ended = run(suite, name, train, gen, refits, "--drill", drill, *arguments)
    result = check_drill(suite, ended, name, gen, picture, joins)
    check_dumps(suite, ended, name, train, gen, picture, arguments if compared is None else compared)
    return ended, result


def clean(suite):
    """Dumps and results of an older executable judge nothing."""
    for file in os.listdir(suite.work):
        shutil.rmtree(suite.path(file)) if os.path.isdir(suite.path(file)) else os.remove(suite.path(file))


def every_executor(suite):
    """Two and three engines of unlike layouts."""
    rows = (
        ("TP2", "TP1+TP2", "kill engine 1 after refit 2; rejoin before refit 4", "##### ##.##", ([], [4])),
        ("TP2", "TP2+TP1xDP2", "restart engine 0 after refit 1; kill engine 1 after refit 2", "#### ##..", ([2], [])),
        ("TP1xPP2", "TP2+TP1+TP1", "join engine 0 before refit 3; kill engine 2 after refit 1; rejoin before refit 4; "
         "restart engine 1 after refit 2", "..## #### #..#", ([3], [3], [4])),
    )  # fmt: skip
    for turn, (train, gen, drill, picture, joins) in enumerate(rows):
        for number, executor in enumerate(EXECUTORS):
            if turn != 0 and number != turn:
                continue
            name = f"{train}-to-{gen}-{executor}"
            drilled(suite, name, train, gen, drill, picture, joins, *SMALL, "--executor", executor, compared=SMALL)


def misc_path_and_stages(suite):
    """Communicators of the misc path and of stages are the engine's own, too."""
    drill = "kill engine 0 after refit 1; rejoin before refit 3"
    more = ("--executor", "p2p", "--bulk", "ffn", "--set", "refit.communicators=per-stage", "--set", "refit.misc_buffer_bytes=64KiB")
    drilled(suite, "misc", "TP1xPP2", "TP2+TP1", drill, "#.# ###", ([3], []), *SMALL, *more, compared=SMALL)


def one_engine(suite):
    """Refits in which nobody takes part, with the only engine, and with all of two."""
    drilled(suite, "only", "TP2", "TP2", "kill engine 0 after refit 1; rejoin before refit 3", "#.##", ([3],), *SMALL)
    drill = "kill engine 0 after refit 1; kill engine 1 after refit 1; rejoin before refit 3"
    drilled(suite, "all", "TP2", "TP2+TP1", drill, "#.. #.#", ([], [3]), *SMALL, "--executor", "p2p", compared=SMALL)


def quantised_and_derived(suite):
    """What is made of weights on the way, and after they have arrived, is made for the new engine, too."""
    fp8 = ("--model", "qwen3-8b-small", "--layers", 2, "--precision", "bf16:fp8")
    for executor in ("p2p", "direct"):
        drilled(suite, f"fp8-{executor}", "TP2", "TP2+TP1", "restart engine 1 after refit 1", "### ###", ([], [2]), *fp8,
                "--executor", executor, compared=fp8)  # fmt: skip
    latent = ("--model", "deepseek-v3-small", "--layers", 2, "--set", "gen.derived=true")
    drilled(suite, "derived", "TP2", "TP2+TP1", "kill engine 0 after refit 1; rejoin before refit 3", "#.# ###", ([3], []),
            *latent, "--executor", "direct", compared=latent)  # fmt: skip


def deltas(suite):
    """A new engine has nothing that a delta could change: it gets everything, and the other one its delta all the same."""
    dense = ("--model", "qwen3-0.6b-small", "--layers", 2, "--set", "run.update=sparse:0.02")
    name = "deltas"
    ended, result = drilled(suite, name, "TP2", "TP2+TP1", "kill engine 1 after refit 2; rejoin before refit 4", "##### ##.##",
                            ([], [4]), *dense, "--executor", "p2p", "--set", "refit.delta=auto", compared=dense)  # fmt: skip
    sent, one = result["delta"]["bytes_samples"], result["gen"]["engines"][0]["payload_bytes"]
    suite.check(result["delta"]["dense_bytes"] > 1.9 * one, f"{result['delta']}", ended)
    whole = [round(count / one) for count in sent]  # payloads that were sent whole: of both engines, none, none, one, none
    suite.check(whole == [2, 0, 0, 1, 0], f"bytes of refits {sent}, of an engine {one}", ended)
    suite.check(0 < sent[2] < sent[1], f"a dead engine was sent a delta: {sent}", ended)


def verified_last_or_never(suite):
    """Who took part is known without proofs."""
    for verify, proofs in (("last", 1), ("off", 0)):
        name = f"verify-{verify}"
        ended = run(suite, name, "TP1", "TP1+TP1", 3, *SMALL, "--drill", "kill engine 0 after refit 1; rejoin before refit 3",
                    "--set", f"run.verify={verify}")  # fmt: skip
        suite.check_code(ended, 0, name)
        result = suite.result(f"{name}.json", ended)
        suite.check([engine["refits"] for engine in result["gen"]["engines"]] == [[1, 3], [1, 2, 3]], f"{result['gen']}", ended)
        suite.check(result.get("verification", {}).get("refits", 0) == proofs, f"{name}: {result.get('verification')}", ended)


def stale_engine(suite):
    """A restarted engine that counts as up to date is wrong whole, from the next refit on, and the other one right."""
    name = "stale"
    ended = run(suite, name, "TP2", "TP1+TP2", 4, *SMALL, "--drill", "restart engine 1 after refit 2", "--inject", "B62-stale-engine")
    suite.check_code(ended, 1, name)
    right, wrong = suite.result(f"{name}.json", ended)["gen"]["engines"]
    suite.check(right["elements_wrong"] == 0 and right["refits"] == [1, 2, 3, 4], f"{right}", ended)
    suite.check(wrong["elements_wrong"] == wrong["elements"] and wrong["refits"] == [1, 2], f"{wrong}", ended)
    suite.check(wrong["version"] == 4, f"the lie is not told: {wrong}", ended)
    with open(suite.path(f"{name}.csv"), encoding="utf-8") as file:
        found = [row["engine_elements_wrong"] for row in csv.DictReader(file)]
    suite.check(found == ["0+0", "0+0", f"0+{wrong['elements']}", f"0+{wrong['elements']}"], f"{found}", ended)


def failing_engine(suite):
    """An engine that cannot be made ends the job for all ranks, in step, and is named: here the memory that its own ranks
    share is too little."""
    for drill, refits in (("join engine 1 before refit 2", 1), ("kill engine 0 after refit 2", 0)):
        job = suite.start(5, "run", *SMALL, "--train", "TP2", "--gen", "TP1+TP1xDP2", "--steps", 3, "--warmup", 0,
                          "--executor", "direct", "--drill", drill, "--force", "--json", "failing.json",
                          before=("bash", "-c", 'ulimit -f 8192 && exec "$@"', "_"))  # fmt: skip
        ended = job.wait()
        suite.check_code(ended, 3, drill)
        suite.check("refit: error: engine 1: shared memory: " in ended.err, f"{drill}: engine 1 is not named", ended)
        result = suite.result("failing.json", ended)
        suite.check(result["status"] == "error" and "engine 1: shared memory" in result["error"]["message"], f"{result}", ended)
        taken = result["gen"]["engines"][0].get("refits", [])
        suite.check(len(taken) == refits, f"{drill}: refits {taken}", ended)


def refusals(suite):
    """Exit code 2, every mistake in one message."""
    base = ("--train", "TP1", "--gen", "TP2+TP1", "--steps", 4, "--warmup", 1)
    rows = (
        ("kill engine 2 after refit 1", (), "there is no engine 2: they are engine 0 to engine 1"),
        ("kill engine 1 after refit 5", (), "after refit 1 to 4: there are 5 (run.warmup + run.steps)"),
        ("rejoin before refit 2", (), "says of no engine that it joins"),
        ("kill engine 0 after refit 1; kil engine 1", (), '"kil engine 1": is no clause; there are: kill engine N after refit R'),
        ("kill engine 0 after refit 1", ("--inject", "swap-gate-up"), "goes with no injected bug but B62-stale-engine"),
        ("kill engine 0 after refit 1", ("--colocated",), "needs train and gen ranks that are apart"),
        ("kill engine 0 after refit 1", ("--inject", "B62-stale-engine"), "it needs run.drill with an engine that joins again"),
    )
    for drill, more, message in rows:
        ended = suite.run(0, "run", *SMALL, *base, *more, "--drill", drill)
        suite.check_code(ended, 2, drill)
        suite.check(message in ended.err, f"{drill}: does not say {message}", ended)
    ended = suite.run(0, "run", *SMALL, *base, "--drill", "kill engine 9 after refit 1; kill engine 0 after refit 9")
    suite.check("there is no engine 9" in ended.err and "after refit 1 to 4" in ended.err, "not all mistakes at once", ended)


Suite(__doc__).main(clean, every_executor, misc_path_and_stages, one_engine, quantised_and_derived, deltas, verified_last_or_never,
                    stale_engine, failing_engine, refusals)  # fmt: skip
