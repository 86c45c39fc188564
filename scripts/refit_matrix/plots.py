"""The page's plots as SVG text. Colours and fonts come from the page's style sheet, so that they follow light and dark.

Every plot is WIDTH units wide and scales to its box: readable at the width of a phone. What colour tells, position or a word tells too.
"""

import math
from html import escape

WIDTH = 400
ROW = 30
RIGHT = WIDTH - 10
LEFT = 10
PHASES = ("quantise", "bulk", "misc", "finalize")  # of a refit, in the order in which they are stacked
LARGEST_MATRIX = 64  # ranks of one side; beyond that cells are smaller than a pixel
LARGEST_NUMBERS = 8


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def rect(x, y, width, height, kind, title="", style=""):
    inner = f"<title>{escape(title)}</title>" if title else ""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{kind}"{style}>'
            f"{inner}</rect>")  # fmt: skip


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def dot(x, y, radius, kind, title=""):
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{kind}">{inner}</circle>'


def svg(height, label, parts):
    return (f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">\n' + "\n".join(parts)
            + "\n</svg>")  # fmt: skip


def milliseconds(seconds):
    """Three digits, as people read them."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def sync_against_bound(results):
    """One row per (name, result): least to largest weight_sync as a line, the median as a dot, the bound as a bar; log scale."""
    least = min(min(r["bound"]["seconds"], r["weight_sync"]["min"]) for _, r in results)
    most = max(max(r["bound"]["seconds"], r["weight_sync"]["max"]) for _, r in results)
    low, high = math.floor(math.log10(max(least, 1e-9))), math.ceil(math.log10(max(most, 1e-9)))
    high = max(high, low + 1)

    def x(seconds):
        return LEFT + (math.log10(max(seconds, 1e-9)) - low) / (high - low) * (RIGHT - LEFT)

    top = 44
    height = top + ROW * len(results)
    parts = [
        rect(LEFT, 4, 4, 12, "bound"),
        text(LEFT + 9, 14, "bound"),
        line(70, 10, 96, 10, "range"),
        dot(83, 10, 4, "median"),
    ]
    parts.append(text(102, 14, "weight_sync: min, median, max"))
    for power in range(low, high + 1):
        at = LEFT + (power - low) / (high - low) * (RIGHT - LEFT)
        anchor = "start" if power == low else "end" if power == high else "middle"
        parts += [line(at, top - 6, at, height, "grid"), text(at, top - 10, _decade(power), "axis", anchor)]
    for number, (name, r) in enumerate(results):
        y = top + ROW * number + 22
        sync, bound = r["weight_sync"], r["bound"]["seconds"]
        parts.append(text(LEFT, y - 9, name, "name"))
        parts.append(
            rect(x(bound) - 2, y - 6, 4, 12, "bound", f"bound {milliseconds(bound)} ms by {r['bound']['term']}")
        )
        parts.append(line(x(sync["min"]), y, x(sync["max"]), y, "range"))
        parts.append(dot(x(sync["median"]), y, 4, "median", f"median weight_sync {milliseconds(sync['median'])} ms"))
    return svg(height, "weight_sync of every case against its bound", parts)


def _decade(power):
    """10^power seconds."""
    return f"{10.0**power:g} s" if power >= 0 else f"{10.0 ** (power + 3):g} ms"


def phases(results):
    """One row per (name, result): the medians of the phases end to end, in units of the median weight_sync."""
    names = [name for name in PHASES if any(name in r["phases"] for _, r in results)]
    shares = [[_median(r, name) / r["weight_sync"]["median"] for name in names] for _, r in results]
    scale = (RIGHT - LEFT) / max(1.0, *(sum(row) for row in shares))
    top = 44
    height = top + ROW * len(results)
    parts, at = [], LEFT
    for name in names:
        parts += [rect(at, 5, 11, 11, name), text(at + 15, 14, name)]
        at += 28 + 7 * len(name)
    one = LEFT + scale
    for number, (name, r) in enumerate(results):
        y, at = top + ROW * number + 16, LEFT
        parts.append(text(LEFT, y - 3, name, "name"))
        for index, share in enumerate(shares[number]):
            said = f"{names[index]} {milliseconds(_median(r, names[index]))} ms"
            parts.append(rect(at, y, share * scale - 0.6, 11, names[index], said))
            at += share * scale
    parts += [line(one, top - 6, one, height, "whole"), text(one, top - 10, "weight_sync", "axis", "end")]
    return svg(height, "phases of every case", parts)


def _median(result, phase):
    return result["phases"].get(phase, {}).get("median", 0.0)


def samples(result):
    """weight_sync of every refit, the first (warm-up or not) as a ring, and the bound as a line."""
    sync, bound = result["weight_sync"], result["bound"]["seconds"]
    values, warm_up = sync["samples"], result["settings"]["warmup"] > 0
    points = (
        [(sync["first"], "first"), *((value, "sample") for value in values)]
        if warm_up
        else [(v, "sample") for v in values]
    )
    most = max(bound, *(value for value, _ in points))
    top, bottom, height = 20, 130, 152
    left = 44

    def y(seconds):
        return bottom - (bottom - top) * seconds / (1.05 * most)

    parts = [line(left, bottom, RIGHT, bottom, "grid")]
    for value in (most / 2, most):
        parts += [
            line(left, y(value), RIGHT, y(value), "grid"),
            text(left - 4, y(value) + 4, milliseconds(value), "axis", "end"),
        ]
    parts += [text(left - 4, bottom + 4, "0", "axis", "end"), text(left - 4, top - 8, "ms", "axis", "end")]
    parts.append(line(left, y(bound), RIGHT, y(bound), "bound-line"))
    parts.append(
        text(
            RIGHT,
            y(bound) - 4 if y(bound) > top + 12 else y(bound) + 12,
            f"bound {milliseconds(bound)} ms",
            "axis",
            "end",
        )
    )
    step = (RIGHT - left) / len(points)
    for number, (value, kind) in enumerate(points):
        said = f"refit {number + 1}: {milliseconds(value)} ms{' (warm-up)' if kind == 'first' else ''}"
        parts.append(dot(left + step * (number + 0.5), y(value), 4, kind, said))
    words = f"refit 1 to {len(points)}" + ("; ring: warm-up" if warm_up else "")
    parts.append(text(left, height - 6, words, "axis"))
    return svg(height, "weight_sync of every refit", parts)


def byte_matrix(matrix, train_hosts=(), gen_hosts=()):
    """Bytes from every train rank (rows) to every gen rank (columns), the darker the more; "" if there are too many ranks.
    Lines stand between the hosts of ranks, where these are known.
    """
    rows, columns = len(matrix), len(matrix[0]) if matrix else 0
    if not 0 < max(rows, columns) <= LARGEST_MATRIX:
        return ""
    left, top = 44, 30
    width = (RIGHT - left) / columns
    height = min(width, 34.0)
    most = max(max(row) for row in matrix) or 1
    numbers = max(rows, columns) <= LARGEST_NUMBERS
    parts = [text(left, 11, "to gen rank", "axis"), text(2, top - 6, "train", "axis")]
    for column in range(columns):
        if numbers or column % 8 == 0:
            parts.append(text(left + width * (column + 0.5), top - 6, str(column), "axis", "middle"))
    for row, values in enumerate(matrix):
        y = top + height * row
        if numbers or row % 8 == 0:
            parts.append(text(left - 6, y + height / 2 + 4, str(row), "axis", "end"))
        for column, value in enumerate(values):
            x = left + width * column
            said = f"train rank {row} to gen rank {column}: {value:,} B"
            shade = f' style="fill-opacity:{0.04 + 0.5 * value / most:.3f}"'
            parts.append(rect(x, y, width - 1, height - 1, "cell", said, shade))
            if numbers:
                parts.append(
                    text(x + width / 2, y + height / 2 + 4, f"{value / 1e6:.3g}" if value else "0", "number", "middle")
                )
    for row in borders(train_hosts, rows):
        parts.append(line(left, top + height * row, left + width * columns, top + height * row, "host"))
    for column in borders(gen_hosts, columns):
        parts.append(line(left + width * column, top, left + width * column, top + height * rows, "host"))
    hosts = "; lines: between hosts" if len({*train_hosts, *gen_hosts}) > 1 else ""
    parts.append(text(left, top + height * rows + 14, f"MB; largest {most / 1e6:.3g}{hosts}", "axis"))
    return svg(top + height * rows + 20, "bytes from every train rank to every gen rank", parts)


def borders(hosts, ranks):
    """The ranks before which another host begins."""
    return [rank for rank in range(1, ranks) if len(hosts) == ranks and hosts[rank] != hosts[rank - 1]]
