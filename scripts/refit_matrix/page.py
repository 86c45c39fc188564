"""One page with everything that a matrix found: nothing loaded from elsewhere; a small script sorts and filters the cases."""

import base64
import os
from html import escape

from . import plots
from .outputs import counts, wrong_tensors
from .runner import write

MARKS = {"passed": "✓", "same": "✓", "slower": "!", "failed": "✗", "error": "✗", "timeout": "✗", "worse": "✗", "waived": "–", "new": "+",
         "other settings": "–"}  # fmt: skip
FILES = ("log.txt", "result.json", "plan.json", "result.h5")
LARGEST_PICTURE_BYTES = 300_000
WIDE = True  # a column that a phone has no room for; the case's own part has it too
READING = """<b>weight_sync</b> is the time of one refit, the largest over all ranks: the median over the steps after the
warm-up. <b>bound</b> is the least time that the measured rates of links and memory allow; <b>efficiency</b> is bound / median
weight_sync. <b>payload</b> is each tensor once, <b>bulk</b> the part of it that does not go through packed broadcasts.
<b>KL</b> compares train's weights with gen's: 0 for equal bits. <b>memory</b> is the most that a rank has: train's or gen's
weights, whichever is more, and staging."""


def write_page(file, matrix, info, outcomes, cases_folder):
    """`cases_folder`: where the pictures of the cases are."""
    measured = [(o.name, o.result) for o in outcomes if o.measured and o.result["bound"]["seconds"] > 0]
    body = [_head(matrix, info, outcomes), _table(outcomes, bool(info["baseline"])), _side_by_side(outcomes)]
    if measured:
        body.append(_plots(measured))
    body.append("<h2>Case by case</h2>")
    body += [_case(outcome, os.path.join(cases_folder, outcome.name, "picture.svg")) for outcome in outcomes]
    write(file, document(f"refit: {matrix.name}", body, _beside("page.js")))


def document(title, body, script=""):
    """A whole page in the style of all of them: parts of HTML one under the other."""
    added = f"<script>\n{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_beside("page.css")}</style>
</head>
<body>
{chr(10).join(body)}
{added}</body>
</html>
"""


def _beside(name):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), encoding="utf-8") as stream:
        return stream.read()


def _head(matrix, info, outcomes):
    found = counts(outcomes)
    items = "".join(f"<li><b>{number}</b> {_verdict(status)}</li>" for status, number in found.items() if number > 0)
    unfinished = len(matrix.cases) - len(outcomes)
    if unfinished > 0:
        items += f'<li><b>{unfinished}</b> <span class="verdict waived">not run</span></li>'
    versions = next((o.result["environment"] for o in outcomes if "environment" in o.result), {})
    built = ", ".join(f"{key} {value}" for key, value in versions.items() if isinstance(value, str) and value)
    return f"""<h1>refit matrix: {escape(matrix.name)}</h1>
<p>{escape(matrix.description)}</p>
<ul class="counts">{items}</ul>
<p class="soft">{escape(info["start_time"])} on {escape(info["host"])}, {info["cores"]} cores{escape(f"; {built}" if built else "")}.
{escape(f"Baseline: {info['baseline']}." if info["baseline"] else "No baseline.")}</p>
<p><code>{escape(info["command"])}</code></p>
<p class="soft">{READING}</p>"""


def _verdict(word):
    return (
        f'<span class="verdict {word.split()[0]}">{MARKS.get(word, "")} {escape(word)}</span>'
        if word in MARKS
        else escape(word)
    )


def _columns(with_baseline):
    """[(heading, cell of an outcome that was measured, wide)]; the first two stand for every outcome."""
    columns = [
        ("precision", _precision, WIDE),
        ("executor,<br>policy", lambda r: f"{r['settings']['executor']}\n{r['settings']['bulk']}", WIDE),
        ("weight_<wbr>sync, ms,<br>min to max", _sync, not WIDE),
        ("bound,<br>ms", lambda r: plots.milliseconds(r["bound"]["seconds"]), WIDE),
        ("effi&shy;ciency", lambda r: f"{r['efficiency']:.3f}", not WIDE),
        ("payload, MB,<br>bulk", lambda r: f"{r['payload']['total_bytes'] / 1e6:,.1f}\n{_bulk(r)}", WIDE),
        ("KL max,<br>mean", lambda r: f"{_kl(r, 'max')}\n{_kl(r, 'mean')}", not WIDE),
        ("wrong", lambda r: f"{r['verification']['elements_wrong']:,}" if "verification" in r else "–", WIDE),
        ("memory,<br>MB", lambda r: f"{_memory(r) / 1e6:,.1f}", WIDE),
    ]
    if with_baseline:
        columns.insert(0, ("baseline,<br>change", None, not WIDE))
    return columns


def _sync(result):
    low, median, high = (plots.milliseconds(result["weight_sync"][key]) for key in ("min", "median", "max"))
    return f"{median}\n{low} – {high}"


def _bulk(result):
    return f"{100 * result['payload']['bulk_fraction']:.1f}%"


def _precision(result):
    train, gen = result["train"]["precision"], result["gen"]["precision"]
    return train if train == gen else f"{train} → {gen}"


def _kl(result, which):
    value = result.get("verification", {}).get("kl", {}).get(which)
    return "–" if value is None else "0" if value == 0 else f"{value:.3g}"


def _verified(result):
    if "verification" not in result:
        return "no (run.verify = off)"
    found = result["verification"]
    return (f"{found['elements']:,} elements in {found['refits']} refits: {found['elements_wrong']:,} wrong; "
            f"KL max {_kl(result, 'max')}, mean {_kl(result, 'mean')}")  # fmt: skip


def _memory(result):
    memory = result["memory"]
    return max(memory["train_bytes_max"], memory["gen_bytes_max"]) + memory["staging_bytes_max"]


def _table(outcomes, with_baseline):
    columns = _columns(with_baseline)
    heads = "".join(f'<th{_wide(wide)} aria-sort="none"><button>{heading}</button></th>' for heading, _, wide in columns)
    rows = []
    for outcome in outcomes:
        cells = "".join(f"<td{_wide(wide)}>{_cell(outcome, value)}</td>" for _, value, wide in columns)
        link = f'<a href="#{escape(outcome.name)}">{escape(outcome.name)}</a>{_layout(outcome)}'
        state = outcome.status if outcome.good else "bad"
        rows.append(f'<tr data-state="{state}"><th scope="row">{link}</th><td class="words">{_verdict(outcome.status)}</td>'
                    f"{cells}</tr>")  # fmt: skip
    return f"""<h2>Cases</h2>
<p class="filter" hidden><label>Filter <input type="search" placeholder="a part of the name or layout"></label>
<label>Show <select><option value="">all</option><option value="bad">not good</option><option>passed</option><option>waived</option>
</select></label> <span class="soft" role="status"></span></p>
<div class="scroll"><table class="cases">
<thead><tr><th aria-sort="none"><button>case,<br>layout that runs</button></th><th class="words" aria-sort="none"><button>verdict</button></th>{heads}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>"""


def _layout(outcome):
    return f'<br><span class="soft">{escape(outcome.layout).replace("-&gt;", "→")}</span>' if outcome.layout else ""


def _side_by_side(outcomes):
    """The variants of each case in one row, with the fastest as the unit; "" where there is but one."""
    rows = {}
    for outcome in outcomes:
        if outcome.measured and outcome.variant:
            rows.setdefault(outcome.base, {})[outcome.variant] = outcome
    variants = list(dict.fromkeys(variant for row in rows.values() for variant in row))
    if len(variants) < 2:
        return ""
    lines = []
    for base, row in rows.items():
        least = min(outcome.result["weight_sync"]["median"] for outcome in row.values())
        cells = "".join(f"<td>{_beside_others(row.get(variant), least)}</td>" for variant in variants)
        lines.append(f'<tr><th scope="row">{escape(base)}{_layout(next(iter(row.values())))}</th>{cells}</tr>')
    heads = "".join(f"<th>{escape(variant)}</th>" for variant in variants)
    return f"""<h2>Side by side</h2>
<p class="soft">Median weight_sync in ms, as a multiple of the fastest, and efficiency.</p>
<div class="scroll"><table class="beside">
<thead><tr><th>case,<br>layout that runs</th>{heads}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody></table></div>"""


def _beside_others(outcome, least):
    if outcome is None:
        return "–"
    median = outcome.result["weight_sync"]["median"]
    times = f"× {median / least:.2f}" if median > least else "fastest"
    return f"{plots.milliseconds(median)}<br>{times}<br>{outcome.result['efficiency']:.3f}"


def _wide(wide):
    return ' class="wide"' if wide else ""


def _cell(outcome, value):
    if value is None:
        change = outcome.baseline.get("change")
        return _verdict(outcome.baseline.get("verdict", "-")) + (f"<br>× {change:.2f}" if change else "")
    return escape(value(outcome.result)).replace("\n", "<br>") if outcome.measured else "–"


def _plots(measured):
    return f"""<h2>All cases</h2>
<div class="plots">
<section><h3>weight_sync against the bound</h3>{plots.sync_against_bound(measured)}</section>
<section><h3>Phases</h3>
<p class="soft">Medians, end to end, as shares of the median weight_sync. Each is the largest over all ranks, and ranks overlap
them: together they can be longer than weight_sync.</p>{plots.phases(measured)}</section>
</div>"""


def _case(outcome, picture):
    """Everything about one case, folded away unless it failed."""
    facts = [("verdict", _verdict(outcome.status) + (f": {escape(outcome.reason)}" if outcome.reason else ""))]
    if outcome.baseline:
        said = "; ".join(outcome.baseline["differences"])
        change = outcome.baseline["change"]
        times = f", weight_sync / bound × {change:.2f}" if change else ""
        facts.append(("baseline", _verdict(outcome.baseline["verdict"]) + times + (f": {escape(said)}" if said else "")))
    r = outcome.result
    if outcome.layout:
        facts.append(("runs", f"{escape(outcome.layout).replace('-&gt;', '→')} on {outcome.ranks} ranks"))
    if wrong := wrong_tensors(outcome):
        facts.append(("wrong", "<br>".join(map(escape, wrong))))
    if r.get("case", {}).get("description"):
        facts.append(("what", escape(r["case"]["description"])))
    if outcome.measured:
        facts += _facts(r)
    facts.append(("command", f"<code>{escape(outcome.command)}</code>"))
    facts.append(("files", ", ".join(
        f'<a href="cases/{escape(outcome.name)}/{name}">{name}</a>' for name in FILES
        if os.path.exists(os.path.join(os.path.dirname(picture), name))
    )))  # fmt: skip
    drawn = []
    if outcome.measured:
        drawn.append(f"<section><h3>weight_sync, refit by refit</h3>{plots.samples(r)}</section>")
    if outcome.byte_matrix:
        square = plots.byte_matrix(outcome.byte_matrix, _hosts(r, "train"), _hosts(r, "gen"))
        square = square or '<p class="soft">Too many ranks to draw; plan.json has it.</p>'
        drawn.append(f"<section><h3>Bytes from rank to rank, as planned</h3>{square}</section>")
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f"""<details id="{escape(outcome.name)}"{"" if outcome.good else " open"}>
<summary>{escape(outcome.name)} {_verdict(outcome.status)}</summary>
<div><dl>{rows}</dl>
<div class="plots">{"".join(drawn)}</div>{_picture(picture)}</div>
</details>"""


def _hosts(r, group):
    """The hosts of one side's ranks."""
    return [rank["host"] for rank in r.get("environment", {}).get("ranks", []) if rank["group"] == group]


def _facts(r):
    sync, wire, memory = r["weight_sync"], r["wire"], r["memory"]
    bulk, misc = r["payload"]["bulk_bytes"], r["payload"]["misc_bytes"]
    millis = plots.milliseconds
    phases = ", ".join(f"{name} {millis(times['median'])} ms" for name, times in r["phases"].items())
    return [(name, escape(value)) for name, value in (
        ("layout", f"{r['train']['layout']} ({r['train']['ranks']} ranks) → {r['gen']['layout']} ({r['gen']['ranks']} ranks)"),
        ("precision", _precision(r)),
        ("path", f"{r['settings']['executor']}, bulk = {r['settings']['bulk']}"),
        ("weight_sync", f"min {millis(sync['min'])}, median {millis(sync['median'])}, max {millis(sync['max'])} ms"),
        ("phases", f"{phases} (medians)"),
        ("bound", f"{millis(r['bound']['seconds'])} ms by {r['bound']['term']}; efficiency {r['efficiency']:.3f}"),
        ("payload", f"{(bulk + misc) / 1e6:,.2f} MB: bulk {bulk / 1e6:,.2f} ({_bulk(r)}), misc {misc / 1e6:,.2f}"),
        ("wire", f"{wire['bytes'] / 1e6:,.2f} MB in {wire['copies']:,} copies"),
        ("memory", f"at most per rank: train {memory['train_bytes_max'] / 1e6:,.2f} MB, gen "
                   f"{memory['gen_bytes_max'] / 1e6:,.2f} MB, staging {memory['staging_bytes_max'] / 1e6:,.2f} MB"),
        ("verified", _verified(r)),
    )]  # fmt: skip


def _picture(file):
    """The case's picture of `refit plan --picture`, as an image of its own: its styles stay inside."""
    try:
        with open(file, "rb") as stream:
            drawing = stream.read()
    except OSError:
        return ""
    if len(drawing) > LARGEST_PICTURE_BYTES:
        return (
            f'<p class="soft">The plan\'s picture is large; it lies in cases/ as {escape(os.path.basename(file))}.</p>'
        )
    data = base64.b64encode(drawing).decode()
    image = f'<img alt="the plan: which rows of a tensor go where" src="data:image/svg+xml;base64,{data}">'
    return f'<h3>Which rows go where</h3><div class="scroll">{image}</div>'
