"""--trace and --timeline: what they say of the last refit agrees with the times that the run itself reports.

    run_timeline.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import csv
import json
import os
import sys
from collections import defaultdict
from xml.etree import ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

MODEL = ("--model", "qwen3-0.6b-small", "--layers", "2", "--steps", "1", "--force")
SLACK = 2.0  # microseconds: seconds are printed with fewer digits than nanoseconds have


def traced(suite, name, ranks, *options):
    """Runs a case; returns its trace, and the seconds of its last refit."""
    files = {kind: suite.path(f"{name}.{kind}") for kind in ("trace", "svg", "csv")}
    ended = suite.run(ranks, "run", *MODEL, *options, "--trace", files["trace"], "--timeline", files["svg"], "--csv", files["csv"])
    suite.check_code(ended, 0, name)
    with open(files["trace"], encoding="utf-8") as file:
        trace = json.load(file)
    with open(files["csv"], encoding="utf-8") as file:
        refit = list(csv.DictReader(file))[-1]
    suite.check(trace["otherData"]["refit_number"] == int(refit["refit"]), f"{name}: of refit {trace['otherData']}, not {refit['refit']}")
    root = ElementTree.parse(files["svg"]).getroot()
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    suite.check(all(any(text.startswith(f"rank {rank} ") for text in texts) for rank in range(ranks)), f"{name}: ranks in {texts}")
    return trace, {key.removesuffix("_seconds"): float(value) for key, value in refit.items() if key.endswith("_seconds") and value}


def complete(suite, name, trace):
    """The fields that the trace event format asks for; every thread is named; returns the events that last."""
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    lasting = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    suite.check(len(lasting) + sum(e["ph"] == "M" for e in trace["traceEvents"]) == len(trace["traceEvents"]), f"{name}: other events")
    for event in lasting:
        well = event["ts"] >= 0 and event["dur"] >= 0 and {"name", "cat", "pid", "tid"} <= event.keys()
        suite.check(well and (event["pid"], event["tid"]) in named, f"{name}: {event}")
    return lasting


def follow_each_other(suite, name, events):
    """No two events of a thread overlap, unless one lies within the other: a wait in its phase."""
    by_thread = defaultdict(list)
    for event in events:
        by_thread[event["tid"]].append(event)
    for of_thread in by_thread.values():
        open_until = []
        for event in sorted(of_thread, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= event["ts"] + SLACK:
                open_until.pop()
            end = event["ts"] + event["dur"]
            suite.check(not open_until or (end <= open_until[-1] + SLACK and event["cat"] == "wait"), f"{name}: overlaps: {event}")
            open_until.append(end)


def agree(suite, name, trace, seconds):
    """Sums of phases are the run's own, and all steps lie within a rank's refit."""
    events = complete(suite, name, trace)
    follow_each_other(suite, name, events)
    sums = defaultdict(lambda: defaultdict(float))
    for event in events:
        if event["cat"] == "phase":
            sums[event["name"]][event["tid"]] += event["dur"] / 1e6
    for phase in ("bulk", "misc", "finalize"):
        longest = max(sums[phase].values(), default=0)
        suite.check(abs(longest - seconds[phase]) <= 1e-6 + 1e-5 * seconds[phase], f"{name}: {phase} {longest}, not {seconds[phase]}")
    phases = defaultdict(list)  # by rank: threads of a rank share their thousand
    for event in events:
        if event["cat"] == "phase":
            phases[event["tid"] // 1000].append((event["ts"], event["ts"] + event["dur"]))
    length = max(max(end for _, end in spans) - min(begin for begin, _ in spans) for spans in phases.values())
    suite.check(length / 1e6 <= seconds["weight_sync"] + 1e-5, f"{name}: {length} us of {seconds['weight_sync']} s")
    for event in events:
        spans = phases[event["tid"] // 1000]
        inside = any(begin - SLACK <= event["ts"] and event["ts"] + event["dur"] <= end + SLACK for begin, end in spans)
        suite.check(inside, f"{name}: outside of all phases: {event}")
    return events


def kinds_of(events):
    return {event["cat"] for event in events}


def executors(suite):
    layouts = ("--train", "TP2", "--gen", "TP1")
    bulk = ("--train", "TP2", "--gen", "TP2", "--bulk", "ffn", "--executor", "p2p", "--set", "refit.chunk_bytes=65536")
    events = agree(suite, "p2p", *traced(suite, "p2p", 4, *bulk))
    suite.check({"staging", "messages", "wait"} <= kinds_of(events), f"p2p: {kinds_of(events)}")
    misc = [event for event in events if event["name"] == "message" and "tensor" in event["args"]]
    suite.check(misc and all(event["args"]["bytes"] > 0 for event in misc), f"p2p: messages {misc[:2]}")

    trace, seconds = traced(suite, "direct", 3, *layouts, "--executor", "direct")
    events = agree(suite, "direct", trace, seconds)
    suite.check(kinds_of(events) == {"phase", "kernel", "wait"}, f"direct: {kinds_of(events)}")

    events = agree(suite, "golden", *traced(suite, "golden", 3, *layouts, "--executor", "golden"))
    suite.check({"staging", "messages"} <= kinds_of(events), f"golden: {kinds_of(events)}")


def staged(suite):
    """The flip is a part of the refit, and quantising one of its phases."""
    trace, seconds = traced(suite, "staged", 2, "--train", "TP1", "--gen", "TP1", "--precision", "bf16:fp8", "--set",
                            "refit.commit=stage", "--executor", "p2p")  # fmt: skip
    events = complete(suite, "staged", trace)
    quantise = max((event["dur"] for event in events if event["name"] == "quantise"), default=0) / 1e6
    suite.check(abs(quantise - seconds["quantise"]) < 1e-5, f"staged: quantise {quantise}, not {seconds['quantise']}")


def failing(suite):
    """A run whose last refit does not end has no timeline, and an older one is taken away."""
    with open(suite.path("old.trace"), "w", encoding="utf-8") as file:
        file.write("old")
    run = ("run", *MODEL, "--train", "TP1", "--gen", "TP1", "--trace", suite.path("old.trace"))
    ended = suite.run(3, *run)
    suite.check_code(ended, 2, "a rank too many")
    suite.check(not os.path.exists(suite.path("old.trace")), "an older trace outlives a run that did not come to a refit", ended)
    ended = suite.run(1, *run, "--timeline", suite.path("old.trace"))
    suite.check_code(ended, 2, "two outputs to one file")
    suite.check("output.timeline" in ended.err, "does not name the key of the second", ended)


Suite(__doc__).main(executors, staged, failing)
