"""The comparison as one page: nothing loaded from elsewhere, in the style of a matrix's page."""

import os
from html import escape

from refit_matrix import page, plots
from refit_matrix.runner import write as write_whole

from . import differences
from .documents import Mistake, number
from .terminal import origin, shown, times, word

MARKS = {"within noise": "≈", "faster": "↓", "slower": "↑", "wrong data": "✗", "other settings": "–", "not measured": "–",
         "unclear": "–", "measured once": "–"}  # fmt: skip
READING = """<b>weight_sync</b> is the time of one refit, the largest over all ranks, after the warm-up. <b>bound</b> is the least
time that the rates measured in the same run allow; <b>efficiency</b> is bound / median weight_sync. <b>B/A</b> is B's figure as a
multiple of A's. Two medians are said to differ where the middle halves of the samples (25th to 75th percentile; of fewer than 4
samples all) do not overlap; that is the spread within a run, and runs at another time or place may differ by more. B is called
faster or slower only where both did the same (settings, layouts, payload) and their data are right."""


def write(file, force, a, b, both, only_a, only_b):
    """Mistake: the page cannot be written, or there is a file already."""
    if os.path.exists(file):
        for one in (a, b):
            if os.path.samefile(file, one.file):
                raise Mistake(f"--html {file}: is {one.file}, which is compared; give another name")
        if not force:
            raise Mistake(f"--html {file}: exists; give another name or --force")
    body = [_head(a, b)]
    if len(both) == 1 and not only_a and not only_b:
        body.append(f"<p>{_verdict(both[0])}: {escape(both[0].sentence)}</p>")
        body.append(_details(both[0]))
    else:
        body += [_cases(both, only_a, only_b), "<h2>Case by case</h2>"]
        body += [_folded(number, pair) for number, pair in enumerate(both)]
    text = page.document(f"refit: {os.path.basename(a.file)}, {os.path.basename(b.file)}", body)
    try:
        write_whole(file, text.encode("utf-8", "backslashreplace").decode("utf-8"))
    except OSError as error:
        raise Mistake(f"--html {file}: {error.strerror}") from None


def _head(a, b):
    rows = "".join(
        f"<dt>{letter}</dt><dd><b>{escape(one.file)}</b>: {escape(origin(one))}<br>"
        f"<code>{escape(str(one.content.get('command', '')))}</code></dd>"
        for letter, one in (("A", a), ("B", b))
    )
    return f'<h1>refit: two results side by side</h1>\n<dl>{rows}</dl>\n<p class="soft">{READING}</p>'


def _verdict(pair):
    return f'<span class="verdict {pair.word.split()[0]}">{MARKS[pair.word]} {pair.word}</span>'


def _cases(both, only_a, only_b):
    rows = []
    for index, pair in enumerate(both):
        medians = [number(result, "weight_sync", "median") for result in (pair.a, pair.b)]
        ratio = medians[1] / medians[0] if medians[0] and medians[1] is not None else None
        parts = [number(result, "efficiency") for result in (pair.a, pair.b)]
        cells = [*(_millis(one) for one in medians), times(ratio)]
        shares = ["–" if one is None else f"{one:.3f}" for one in parts]
        name = f'<a href="#case-{index}">{escape(pair.name)}</a>'
        rows.append(f'<tr><th scope="row">{name}</th><td class="words">{_verdict(pair)}</td>'
                    + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                    + "".join(f'<td class="wide">{share}</td>' for share in shares) + "</tr>")  # fmt: skip
    alone = "".join(
        f"<p>Only in {letter}: {escape('; '.join(names))}.</p>"
        for letter, names in (("A", only_a), ("B", only_b)) if names
    )  # fmt: skip
    return f"""<h2>Cases</h2>
<p class="soft">Medians of weight_sync.</p>
<div class="scroll"><table>
<thead><tr><th>case</th><th class="words">B is</th><th>A, ms</th><th>B, ms</th><th>B/A</th>
<th class="wide">efficiency<br>A</th><th class="wide"><br>B</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>
{alone}"""


def _millis(seconds):
    return "–" if seconds is None else plots.milliseconds(seconds)


def _folded(index, pair):
    return f"""<details id="case-{index}">
<summary>{escape(pair.name)} {_verdict(pair)}</summary>
<div><p>{escape(pair.sentence)}</p>{_details(pair)}</div>
</details>"""


def _details(pair):
    drawn = _samples(pair)
    plot = f'<div class="plots"><section><h3>Every refit</h3>{drawn}</section></div>' if drawn else ""
    settings = _unequal("Settings that differ", pair.settings)
    return f"{settings}{_unequal('Environment that differs', pair.environment)}{plot}<h3>All figures</h3>{_figures(pair)}"


def _unequal(what, entries):
    if not entries:
        return f'<p class="soft">{what}: none.</p>'
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd><b>A</b> {escape(word(a))}, <b>B</b> {escape(word(b))}</dd>" for key, a, b in entries
    )
    return f"<h3>{what}</h3><dl>{rows}</dl>"


def _figures(pair):
    rows, group = [], None
    for row in pair.rows:
        if row.group != group:
            group = row.group
            rows.append(f'<tr><th class="group" colspan="5">{escape(group)}</th></tr>')
        unit = f' <span class="soft">{escape(row.unit)}</span>' if row.unit else ""
        rows.append(f'<tr><th scope="row">{escape(row.name)}{unit}</th><td>{shown(row.a)}</td><td>{shown(row.b)}</td>'
                    f"<td>{times(row.ratio)}</td><td>{'<b>*</b>' if row.mark else ''}</td></tr>")  # fmt: skip
    return f"""<p class="soft">*: more than noise, or a count that is not the same.</p>
<div class="scroll"><table class="figures">
<thead><tr><th>figure</th><th>A</th><th>B</th><th>B/A</th><th></th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>"""


def _samples(pair):
    """A row each: every refit as a dot in the order of refits from above, the range of noise, the median, the bound."""
    kept = [(letter, result, differences.samples(result)) for letter, result in (("A", pair.a), ("B", pair.b))]
    if not any(values for _, _, values in kept):
        return ""
    bounds = [number(result, "bound", "seconds") or 0.0 for _, result, _ in kept]
    most = 1.05 * max([*bounds, *(value for _, _, values in kept for value in values)])
    if not most > 0:
        return ""
    left, row, top = 24, 62, 10
    bottom = top + 2 * row

    def x(seconds):
        return left + (plots.RIGHT - left) * seconds / most

    parts = []
    for share in (0, 0.5, 1):
        at = x(share * most / 1.05)
        parts += [plots.line(at, top, at, bottom, "grid"),
                  plots.text(at, bottom + 14, plots.milliseconds(share * most / 1.05), "axis", "middle")]  # fmt: skip
    for index, (letter, _, values) in enumerate(kept):
        y = top + row * index
        parts.append(plots.text(2, y + row / 2, letter))
        if values:
            low, high = differences.spread(values) or (values[0], values[0])
            said = f"{letter}: {plots.milliseconds(low)} to {plots.milliseconds(high)} ms"
            parts.append(plots.rect(x(low), y + 6, x(high) - x(low), row - 14, "half", said))
            middle = x(differences.quantile(values, 0.5))
            parts.append(plots.line(middle, y + 6, middle, y + row - 8, "middle"))
        for place, seconds in enumerate(values):
            height = y + 10 + (row - 22) * (place + 0.5) / len(values)
            parts.append(plots.dot(x(seconds), height, 3, "sample", f"{letter}: {plots.milliseconds(seconds)} ms"))
        if bounds[index] > 0:
            parts.append(plots.line(x(bounds[index]), y + 4, x(bounds[index]), y + row - 6, "bound-line"))
    parts.append(plots.text(left, bottom + 30, "ms; shaded: its noise; line: median; dashed: bound", "axis"))
    return plots.svg(bottom + 36, "weight_sync of every refit of A and of B", parts)
