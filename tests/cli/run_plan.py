"""`refit plan`: the published rows, a world of 256 ranks, classes, byte matrix, bound; and `refit probe`, whose file it reads.

    run_plan.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

LARGE = (
    "--model", "qwen3-235b-a22b", "--train", "TP4xPP8xEP16", "--gen", "TP8xDP16", "--set", "train.first_stage_layers=11",
    "--set", "train.last_stage_layers=11",
)  # fmt: skip


def plan(suite, name, *arguments, code=0):
    """The process's end and its document."""
    ended = suite.run(0, "plan", *arguments, "--json", f"{name}.json", "--force")
    suite.check_code(ended, code, name)
    return ended, suite.result(f"{name}.json", ended)


def check_document(suite, ended, document, name):
    """What every plan's document holds, and what its numbers have to do with each other."""
    suite.check((document["schema"], document["schema_version"]) == ("refit.plan", 1), f"{name}: schema", ended)
    for absent in ("weight_sync", "phases", "verification"):
        suite.check(absent not in document, f"{name}: has {absent}", ended)
    payload, wire, world = document["payload"], document["wire"], document["plan"]["world"]
    suite.check(payload["bulk_bytes"] + payload["misc_bytes"] == payload["total_bytes"], f"{name}: {payload}", ended)
    for part in ("seconds", "peak_bytes", "copies", "hash"):
        suite.check(document["plan"][part], f"{name}: plan.{part}", ended)
    suite.check(world["copies"] == wire["copies"] >= document["plan"]["copies"], f"{name}: copies", ended)
    matrix = world["byte_matrix"]
    train, gen = document["train"]["ranks"], document["gen"]["ranks"]
    suite.check(len(matrix) == train and {len(row) for row in matrix} == {gen}, f"{name}: byte matrix", ended)
    suite.check(sum(map(sum, matrix)) == wire["bytes"], f"{name}: byte matrix and wire.bytes", ended)
    suite.check(max(map(sum, matrix)) == wire["egress_bytes_max"], f"{name}: egress_bytes_max", ended)
    suite.check(max(map(sum, zip(*matrix))) == wire["ingress_bytes_max"], f"{name}: ingress_bytes_max", ended)
    suite.check(document["bound"]["bytes"]["ingress"] <= wire["ingress_bytes_max"], f"{name}: bound of ingress", ended)


def published_rows(suite):
    cases = sorted(glob.glob(os.path.join(suite.args.inputs, "cases", "published", "*.toml")))
    suite.check(len(cases) >= 18, f"{len(cases)} published rows")
    for case in cases:
        name = os.path.splitext(os.path.basename(case))[0]
        ended, document = plan(suite, name, case)
        check_document(suite, ended, document, name)
        title = document["case"]["description"]
        suite.check(" -> " in title and title in ended.out, f"{name}: title '{title}'", ended)


def published_fraction(suite):
    """The one row whose bytes are published: 54.00 GiB of 56.87 GiB, 95.0 %."""
    case = os.path.join(suite.args.inputs, "cases", "published", "qwen3-30b-ep8pp2-to-tp8dp2-ffn.toml")
    ended, document = plan(suite, "fraction", case, "--set", "expect.bulk_fraction=0.950")
    line = "[xferd-payload] qkv_to_misc=False nccl_xfer=54.00GiB bcast_misc=2.87GiB total=56.87GiB xfer_frac=95.0%"
    suite.check(line in ended.out, "the payload's line", ended)
    suite.check(abs(document["payload"]["bulk_fraction"] - 0.95) < 0.0005, f"{document['payload']}", ended)
    ended, document = plan(suite, "missed", case, "--set", "expect.bulk_fraction=0.951", code=1)
    suite.check("FAILED: expect.bulk_fraction: 0.9510 expected" in ended.out, "says what was missed", ended)
    suite.check((document["status"], document["exit_code"]) == ("failed", 1), f"status {document['status']}", ended)


def large_world(suite):
    """Qwen3-235B, TP4xPP8xEP16 with 11 layers on the first and last stage: 256 ranks in all, in seconds, bytes only."""
    ended, document = plan(suite, "large", *LARGE, "--byte-matrix", "matrix.txt")
    check_document(suite, ended, document, "large")
    suite.check(document["train"]["ranks"] == document["gen"]["ranks"] == 128, f"{document['train']}", ended)
    suite.check(ended.seconds < 30, f"took {ended.seconds:.1f} s", ended)
    suite.check("seconds" not in document["bound"] and "model_seconds" not in document, "seconds without rates", ended)
    with open(suite.path("matrix.txt"), encoding="utf-8") as file:
        rows = [list(map(int, line.split())) for line in file if not line.startswith("#")]
    # all ranks by all ranks: only the block from train to gen has bytes
    suite.check(len(rows) == 256 and {len(row) for row in rows} == {256}, "the byte matrix's size", ended)
    suite.check([row[128:] for row in rows[:128]] == document["plan"]["world"]["byte_matrix"], "its block", ended)
    suite.check(sum(map(sum, rows)) == document["wire"]["bytes"], "its sum", ended)
    # every gen engine needs every tensor once: 16 engines
    suite.check(document["wire"]["bytes"] >= 16 * document["payload"]["total_bytes"], f"{document['wire']}", ended)


def with_hardware(suite):
    ended, document = plan(suite, "hardware", *LARGE, "--hardware", "h100-50gbps")
    bound = document["bound"]
    terms = {name: bound["terms"][name] for name in ("ingress", "egress", "fanout", "memory")}
    suite.check(bound["seconds"] == max(terms.values()) == terms[bound["term"]] > 0, f"bound {bound}", ended)
    suite.check(document["model_seconds"]["total"] >= bound["seconds"], f"{document['model_seconds']}", ended)
    again, other = plan(suite, "again", *LARGE, "--hardware", "h200-nvlink")
    suite.check(other["plan"]["hash"] == document["plan"]["hash"], "the plan depends on rates", again)


def classify(suite):
    """One line per tensor; the ffn policy takes the experts' three projections and nothing else."""
    model = ("--model", "qwen3-30b-a3b-small", "--train", "EP2xPP2", "--gen", "TP2")
    ended, document = plan(suite, "classify", *model, "--bulk", "ffn", "--classify")
    rows = re.findall(r"^(bulk|misc) +(\S+) +\[[\d, ]+\] +(\S+)$", ended.out, re.MULTILINE)
    suite.check(len(rows) == document["model"]["tensors"], f"{len(rows)} rows", ended)
    bulk = {role for path, role, _ in rows if path == "bulk"}
    names = [name for path, _, name in rows if path == "bulk"]
    suite.check(all(re.search(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.", name) for name in names), f"{bulk}")
    suite.check(names and not any("expert" in name for path, _, name in rows if path == "misc"), f"{bulk}")


def same_plan_as_run(suite):
    """A job's payload and wire are those that were planned."""
    model = ("--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--gen", "TP1xDP2", "--bulk", "ffn",
             "--precision", "fp32:bf16")  # fmt: skip
    _, planned = plan(suite, "planned", *model)
    ended = suite.run(4, "run", *model, "--steps", 1, "--json", "done.json", "--force")
    suite.check_code(ended, 0, "run")
    done = suite.result("done.json", ended)
    for part in ("payload", "wire", "model"):
        suite.check(planned[part] == done[part], f"{part}: {planned[part]} planned, {done[part]} done", ended)


def probe(suite):
    for ranks in (1, 2, 4):
        file = f"measured-{ranks}.toml"
        ended = suite.run(ranks, "probe", "--seconds", 0.005, "--save", file, "--force")
        suite.check_code(ended, 0, f"probe with {ranks} ranks")
        rates = list(map(float, re.findall(r" ([\d.]+) GB/s", ended.out)))
        suite.check(len(rates) >= 2 and min(rates) > 0, f"rates {rates}", ended)
        rows = re.findall(r"^ +\d+ +[-\d.]+(?: +[-\d.]+)*$", ended.out, re.MULTILINE)
        suite.check(len(rows) == (ranks if ranks > 1 else 0), f"matrix {rows}", ended)
        _, document = plan(suite, f"probed-{ranks}", *LARGE, "--hardware", suite.path(file))
        suite.check(document["bound"]["seconds"] > 0, f"{file}: bound {document['bound']}")
    ended = suite.run(2, "probe", "--seconds", 0.005, "--save", "measured-2.toml")
    suite.check_code(ended, 2, "an existing hardware file")
    suite.check(ended.err.count("measured-2.toml exists") == 1, "said once", ended)


Suite(__doc__).main(
    published_rows, published_fraction, large_world, with_hardware, classify, same_plan_as_run, probe
)  # fmt: skip
