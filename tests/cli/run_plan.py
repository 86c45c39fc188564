"""`refit plan`: the published rows, a world of 256 ranks, classes, explanations, pictures, bound; and `refit probe`, whose file it reads.

    run_plan.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import glob
import os
import re
import sys
from xml.etree import ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402
from results import without_hosts  # noqa: E402

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
    """Those whose times or bytes are published, and the recipes of which only the layouts are."""
    cases = []
    for folder, least in (("published", 18), ("recipes", 10)):
        found = sorted(glob.glob(os.path.join(suite.args.inputs, "cases", folder, "*.toml")))
        suite.check(len(found) >= least, f"{len(found)} cases in {folder}")
        cases += found
    for case in cases:
        name = os.path.splitext(os.path.basename(case))[0]
        ended, document = plan(suite, name, case)
        check_document(suite, ended, document, name)
        title = document["case"]["description"]
        suite.check(" -> " in title and title in re.sub(r"\n#\s+", " ", ended.out), f"{name}: title '{title}'", ended)


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
    """Qwen3-235B, TP4xPP8xEP16 with 11 layers on the first and last stage: 256 ranks in all, bytes only."""
    ended, document = plan(suite, "large", *LARGE, "--byte-matrix", "matrix.txt")
    check_document(suite, ended, document, "large")
    suite.check(document["train"]["ranks"] == document["gen"]["ranks"] == 128, f"{document['train']}", ended)
    chosen = (document["train"]["trainer"], document["gen"]["engine"])
    suite.check(chosen == ("megatron", "vllm"), f"{chosen}", ended)
    suite.check("seconds" not in document["bound"] and "model_seconds" not in document, "seconds without rates", ended)
    with open(suite.path("matrix.txt"), encoding="utf-8") as file:
        rows = [list(map(int, line.split())) for line in file]  # alltoallv reads numbers only: no headings
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
    # Every policy with every executor, fastest first; this case's own row is its model, the sum of its parts.
    rows = document["plan"]["models"]
    suite.check(len({(row["bulk"], row["executor"]) for row in rows}) == len(rows) == 12, f"{len(rows)} rows", ended)
    suite.check([row["total"] for row in rows] == sorted(row["total"] for row in rows), "not sorted", ended)
    own = [row for row in rows if (row["bulk"], row["executor"]) == ("all", "direct")]
    suite.check({**own[0], **document["model_seconds"]} == own[0], f"{own} and {document['model_seconds']}", ended)
    for row in rows:
        parts = sum(row[part] for part in ("wire", "schedule", "staging", "latency", "misc"))
        suite.check(abs(row["total"] - parts) < 1e-9 and row[row["term"]] > 0, f"{row}", ended)
        suite.check(re.search(rf"^  {row['bulk']} +{row['executor']} ", ended.out, re.MULTILINE), f"{row}", ended)
    _, golden = plan(suite, "golden", *LARGE, "--executor", "golden", "--hardware", "h100-50gbps")
    suite.check(golden["model_seconds"]["total"] > 2 * document["model_seconds"]["total"], "golden is as fast", ended)
    again, other = plan(suite, "again", *LARGE, "--hardware", "h200-nvlink")
    suite.check(other["plan"]["hash"] == document["plan"]["hash"], "the plan depends on rates", again)


def more_ranks_than_a_matrix(suite):
    """300 x 300 ranks: bytes by rank, and the matrix only where it is asked for. Forwards are received too."""
    world = ("--model", "smollm2-135m-small", "--train", "TP1xDP300", "--gen", "TP1xDP300")
    ended, document = plan(suite, "many-ranks", *world)
    totals = document["plan"]["world"]
    suite.check("byte_matrix" not in totals and "only with --byte-matrix" in ended.out, "a matrix", ended)
    asked, other = plan(suite, "asked", *world, "--byte-matrix", "many.txt")
    matrix = other["plan"]["world"]["byte_matrix"]
    suite.check(list(map(sum, matrix)) == totals["sent"], "sent", asked)
    suite.check(list(map(sum, zip(*matrix))) == totals["received"], "received", asked)
    ended, document = plan(suite, "fan-out", "--model", "smollm2-135m-small", "--train", "TP1", "--gen", "DP3",
                           "--fan-out", "on")  # fmt: skip
    wire, totals = document["wire"], document["plan"]["world"]
    suite.check(wire["forwarded_bytes"] > 0, f"{wire}", ended)
    suite.check(sum(totals["received"]) == wire["bytes"] and min(totals["received"]) > 0, f"{totals}", ended)


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


GRAIN = 64  # every cut of that model is between blocks of so many rows and columns


def cells(box):
    """The blocks of GRAIN x GRAIN elements of a box that is written as in "[0:128, 64:192]"."""
    rows, columns = (range(*map(int, part.split(":")), GRAIN) for part in re.findall(r"\d+:\d+", box))
    return {(i, j) for i in rows for j in columns}


def explain(suite):
    """Pieces and copies of the tensors that were asked for: what gen stores is what the copies bring, from who has it."""
    model = ("--model", "smollm2-135m-small", "--train", "TP3xPP2", "--gen", "TP1xDP2")
    ended, document = plan(suite, "explain", *model, "--explain", "*.layers.0.self_attn.q_proj.weight",
                           "--explain", "*.layers.0.mlp.down_proj.weight")  # fmt: skip
    parts = re.split(r"^(model\.layers\.0\.\S+)$", ended.out, flags=re.MULTILINE)
    suite.check(len(parts) == 5, f"{len(parts) // 2} tensors explained", ended)
    for name, text in zip(parts[1::2], parts[2::2]):
        whole = cells("[0:{}, 0:{}]".format(*re.search(r"\[(\d+), (\d+)\] BF16, \S+ \wB, bulk", text).groups()))
        owners = {"train": {}, "gen": {}}
        for side, block in re.findall(r"^(train|gen): \d+ pieces?\n((?:  .*\n)+)", text, re.MULTILINE):
            for rank, coordinates, box, storage in re.findall(
                r"^ +(\d+) +((?:\w+=\d+ )+) *(\[\d\S+ \S+\]) +(\S+) +\[", block, re.MULTILINE
            ):
                owners[side].setdefault(int(rank), set()).update(cells(box))
                fused = ("qkv" in storage) if "q_proj" in name else ("fc2" in storage or "down_proj" in storage)
                suite.check(fused and "tp=" in coordinates, f"{name}: {storage} at {coordinates}", ended)
        suite.check(set().union(*owners["train"].values()) == whole, f"{name}: train's pieces", ended)
        suite.check([owners["gen"][rank] for rank in (0, 1)] == [whole, whole], f"{name}: gen's pieces", ended)
        received = {0: set(), 1: set()}
        copies = re.findall(r"^ +(\d+)  train (\d+)  gen (\d+)  (\[\S+ \S+\])", text, re.MULTILINE)
        for size, source, destination, box in copies:
            moved = cells(box)
            suite.check(2 * len(moved) * GRAIN * GRAIN == int(size), f"{name}: {size} bytes of {box}", ended)
            suite.check(moved <= owners["train"][int(source)], f"{name}: {box} is not train {source}'s", ended)
            suite.check(not moved & received[int(destination)], f"{name}: {box} twice", ended)
            received[int(destination)] |= moved
        suite.check(received == owners["gen"], f"{name}: {len(copies)} copies do not bring what gen stores", ended)

    ended = suite.run(0, "plan", *model, "--bulk", "ffn", "--explain", "model.norm.weight")
    suite.check("misc: gathered on train rank 0" in ended.out, "a misc tensor", ended)
    ended = suite.run(0, "plan", *model, "--precision", "fp32:bf16", "--explain", "model.norm.weight")
    suite.check("F32 to BF16" in ended.out, "a cast", ended)
    # Bytes are those on the wire: direct sends what gen stores, p2p what train has.
    for executor in ("direct", "p2p"):
        words = ("--precision", "fp32:bf16", "--executor", executor, "--explain", "*")
        ended, document = plan(suite, f"explain-{executor}", *model, *words)
        explained = sum(int(row.split()[0]) for row in re.findall(r"^ *\d+  (?:train|gen) \d+ .*$", ended.out, re.MULTILINE))
        suite.check(explained == document["wire"]["bytes"], f"{executor}: {explained} bytes explained, {document['wire']}", ended)
    ended = suite.run(0, "plan", "--model", "nemotron-3-nano-30b-a3b-small", "--train", "TP2", "--gen", "TP2",
                      "--explain", "*.layers.0.mixer.A_log")  # fmt: skip
    suite.check("F32 -exp(x)" in ended.out and "x to -exp(x)" in ended.out, "a conversion", ended)
    ended = suite.run(0, "plan", *model, "--explain", "model.layers.0.self_attn.qproj.weight")
    suite.check_code(ended, 2, "an unknown tensor")
    suite.check("did you mean model.layers.0.self_attn.q_proj.weight, " in ended.err, "the nearest names", ended)


def matrix_picture(suite):
    """What a picture of the byte matrix says of each pair is in the matrix, and lines stand between domains alone."""
    svg = "{http://www.w3.org/2000/svg}"
    model = ("--model", "qwen3-8b-small", "--train", "TP4xPP2", "--gen", "TP4")
    hardware = suite.path("small-domains.toml")
    with open(os.path.join(suite.args.inputs, "hardware", "h100-50gbps.toml"), encoding="utf-8") as file:
        text = re.sub(r"(?m)^devices_per_domain *=.*$", "devices_per_domain = 2", file.read())
    with open(hardware, "w", encoding="utf-8") as file:
        file.write(text)
    _, result = plan(suite, "matrix", *model, "--hardware", hardware, "--byte-matrix-picture", "matrix.svg")
    root = ElementTree.parse(suite.path("matrix.svg")).getroot()
    titles = [title.text for title in root.iter(f"{svg}title")][1:]
    matrix = result["plan"]["world"]["byte_matrix"]
    told = {tuple(map(int, re.match(r"train rank (\d+) to gen rank (\d+): ", text).groups())) for text in titles}
    suite.check(told == {(row, column) for row in range(8) for column in range(4)}, f"pairs {sorted(told)}")
    for text in titles:
        row, column = map(int, re.match(r"train rank (\d+) to gen rank (\d+)", text).groups())
        suite.check((matrix[row][column] == 0) == text.endswith(": 0 B"), f"{text}, not {matrix[row][column]}")
    lines = [path for path in root.findall(f"{svg}path") if path.get("class") == "border"]
    suite.check(len(lines) == 3 + 1, f"{len(lines)} lines between 4 and 2 domains")
    plan(suite, "aggregated", "published/qwen3-235b-tp4pp8ep16-to-tp8dp16-whitelist", "--hardware", "h100-50gbps",
         "--byte-matrix-picture", "large.svg")  # fmt: skip
    suite.check(os.path.getsize(suite.path("large.svg")) < 500_000, "a picture of 128 x 128 ranks is large")


def picture(suite):
    """Well-formed, and a band for every copy, with ranks and rows beside the pieces."""
    svg = "{http://www.w3.org/2000/svg}"
    model = ("--model", "gpt-oss-20b-small", "--train", "TP2xEP2", "--gen", "TP4")
    ended, _ = plan(suite, "picture", *model, "--picture", "picture.svg", "--explain", "*.layers.0.mlp.router.*",
                    "--explain", "*.layers.0.mlp.experts.down_proj")  # fmt: skip
    root = ElementTree.parse(suite.path("picture.svg")).getroot()
    bands = root.findall(f"{svg}path")
    copies = re.findall(r"^ +(\d+)  train (\d+)  gen (\d+)  (\[[\d:, ]+\])", ended.out, re.MULTILINE)
    told = {f"train {source} to gen {destination}: {box}" for _, source, destination, box in copies}
    titles = {band.find(f"{svg}title").text.rsplit(", ", 1)[0] for band in bands}
    suite.check(len(bands) == len(copies) > 8 and titles == told, f"{len(bands)} bands, {len(copies)} copies", ended)
    texts = [text.text for text in root.iter(f"{svg}text")]
    for wanted in (r"train 0  tp0 .*", r"gen 3  tp3 .*", r"rows 0:\d+", r"\[0:\d+, 0:\d+, 0:\d+\]"):
        suite.check(any(re.fullmatch(wanted, text) for text in texts), f"no text like {wanted}: {texts[:12]}")
    width, height = map(float, root.get("viewBox").split()[2:])
    for part in root.findall(f"{svg}rect"):
        right = float(part.get("x", 0)) + float(part.get("width"))
        below = float(part.get("y", 0)) + float(part.get("height"))
        suite.check(right <= width and below <= height, f"outside of the page: {part.attrib}")
    suite.check("prefers-color-scheme: dark" in root.find(f"{svg}style").text, "no dark scheme")

    # without --explain: one tensor that the sides cut differently
    ended, _ = plan(suite, "chosen", *model, "--picture", "chosen.svg")
    names = [text.text for text in ElementTree.parse(suite.path("chosen.svg")).iter(f"{svg}text")
             if text.get("class") == "name"]  # fmt: skip
    suite.check(len(names) == 1 and ".experts." in names[0], f"{names} drawn", ended)
    suite.check("moved by" not in ended.out, "explained without being asked", ended)
    # a world with more pieces than a page has room for
    ended, _ = plan(suite, "many", *LARGE, "--picture", "many.svg", "--explain", "model.norm.weight")
    texts = [text.text for text in ElementTree.parse(suite.path("many.svg")).iter(f"{svg}text")]
    suite.check(any("80 more pieces of gen" in text for text in texts), f"{texts[-1]}", ended)
    ended = suite.run(0, "plan", *model, "--picture", "picture.svg")
    suite.check_code(ended, 2, "an existing picture")


def same_plan_as_run(suite):
    """A job's payload and wire are those that were planned."""
    model = ("--model", "qwen3-0.6b-small", "--layers", 2, "--train", "TP2", "--gen", "TP1xDP2", "--bulk", "ffn",
             "--precision", "fp32:bf16")  # fmt: skip
    _, planned = plan(suite, "planned", *model)
    ended = suite.run(4, "run", *model, "--steps", 1, "--json", "done.json", "--force")
    suite.check_code(ended, 0, "run")
    done = suite.result("done.json", ended)
    done["wire"] = without_hosts(done["wire"])
    for part in ("payload", "wire", "model"):
        suite.check(planned[part] == done[part], f"{part}: {planned[part]} planned, {done[part]} done", ended)


def probe(suite):
    for ranks in (1, 2, 4):
        file = f"measured-{ranks}.toml"
        ended = suite.run(ranks, "probe", "--seconds", 0.005, "--bytes", "1MiB", "--sizes", "none", "--save", file, "--force")
        suite.check_code(ended, 0, f"probe with {ranks} ranks")
        rates = list(map(float, re.findall(r" ([\d.]+) GB/s", ended.out)))
        suite.check(len(rates) >= 2 and min(rates) > 0, f"rates {rates}", ended)
        _, document = plan(suite, f"probed-{ranks}", *LARGE, "--hardware", suite.path(file))
        suite.check(document["bound"]["seconds"] > 0, f"{file}: bound {document['bound']}")
    # a host's memory is that of both sides, in a plan as in a run
    model = ("--model", "qwen3-8b-small", "--train", "TP2", "--gen", "TP2")
    _, document = plan(suite, "on-a-host", *model, "--hardware", suite.path("measured-4.toml"))
    ended = suite.run(4, "run", *model, "--steps", 1, "--json", "on-a-host-run.json", "--force")
    done = suite.result("on-a-host-run.json", ended)
    suite.check(document["bound"]["bytes"] == done["bound"]["bytes"], f"{document['bound']} planned, {done['bound']} done", ended)
    ended = suite.run(2, "probe", "--seconds", 0.005, "--save", "measured-2.toml")
    suite.check_code(ended, 2, "an existing hardware file")
    suite.check(ended.err.count("measured-2.toml exists") == 1, "said once", ended)


Suite(__doc__).main(
    published_rows, published_fraction, large_world, with_hardware, more_ranks_than_a_matrix, classify, explain, picture,
    matrix_picture, same_plan_as_run, probe
)  # fmt: skip
