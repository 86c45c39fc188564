"""The comparison as text: a table of all figures for one case, a row per case for several."""

import textwrap

from . import differences
from .documents import KINDS, number, part

WIDTH = 100


def shown(figure):
    """Four digits, as people read them; "-": not there."""
    if figure is None:
        return "-"
    if isinstance(figure, int) or (float(figure).is_integer() and abs(figure) < 1e15):
        return f"{int(figure):,}"
    return f"{figure:,.1f}" if abs(figure) >= 1000 else f"{figure:.4g}"


def plain(line):
    """With escapes for what a terminal would obey, and for halves of characters, which no encoding has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def times(ratio):
    return "-" if ratio is None else f"{ratio:.3g}"


def origin(document):
    """Whose file it is, when it ran, and where."""
    first = document.first
    environment = part(first, "environment")
    hosts = environment.get("hosts")
    names = [str(host.get("name", "?")) for host in hosts if isinstance(host, dict)] if isinstance(hosts, list) else []
    words = [document.content.get("start_time"), KINDS[document.schema].partition(" ")[2]]
    words.append(f"on {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else None)
    words.append(f"refit {environment['refit']}" if environment.get("refit") else None)
    return ", ".join(str(word) for word in words if word)


def write(a, b, both, only_a, only_b):
    """The lines."""
    yield f"A  {a.file}: {origin(a)}"
    yield f"B  {b.file}: {origin(b)}"
    if len(both) == 1 and not only_a and not only_b:
        yield from _one(both[0])
    else:
        yield from _several(both, only_a, only_b)


def _one(pair):
    yield from _unequal("settings", pair.settings)
    yield from _unequal("environment", pair.environment)
    group = None
    yield ""
    yield f"{'':36}{'A':>14}{'B':>14}{'B/A':>9}"
    for row in pair.rows:
        if row.group != group:
            group = row.group
            yield group
        name = f"  {row.name}" + (f" ({row.unit})" if row.unit else "")
        yield f"{name:36}{shown(row.a):>14}{shown(row.b):>14}{times(row.ratio):>9}{'  *' if row.mark else ''}"
    yield ""
    if any(row.mark for row in pair.rows):
        yield "* more than noise, or a count that is not the same"
    yield from _wrapped(f"{pair.word}: {pair.sentence}")


def _unequal(what, entries):
    if not entries:
        yield f"{what}: the same"
        return
    yield f"{what}, where they differ:"
    for key, a, b in entries:
        yield from _wrapped(f"  {key}: A {word(a)}, B {word(b)}")


def word(found):
    return "has none" if found is None else str(found).lower() if isinstance(found, bool) else str(found)


def _several(both, only_a, only_b):
    environment = list(dict.fromkeys(str(entry) for pair in both for entry in pair.environment))
    entries = [entry for pair in both[:1] for entry in pair.environment]
    yield from _unequal("environment", entries)
    if len(environment) > len(entries):
        yield "  (that of the first case; those of others differ otherwise: see the page, --html)"
    width = max([len(pair.name) for pair in both] + [4])
    yield ""
    yield f"{'case':{width}}  {'A, ms':>10} {'B, ms':>10} {'B/A':>7}  {'efficiency A':>12} {'B':>6}  verdict"
    for pair in both:
        medians = [number(result, "weight_sync", "median") for result in (pair.a, pair.b)]
        millis = [None if one is None else one * 1e3 for one in medians]
        ratio = medians[1] / medians[0] if medians[0] and medians[1] is not None else None
        parts = [number(result, "efficiency") for result in (pair.a, pair.b)]
        efficiency = [f"{one:.3f}" if one is not None else "-" for one in parts]
        yield (f"{pair.name:{width}}  {shown(millis[0]):>10} {shown(millis[1]):>10} {times(ratio):>7}  "
               f"{efficiency[0]:>12} {efficiency[1]:>6}  {_because(pair)}")  # fmt: skip
    for letter, names in (("A", only_a), ("B", only_b)):
        if names:
            yield from _wrapped(f"only in {letter}: {'; '.join(names)}")
    yield ""
    yield "Medians of weight_sync; faster and slower: B's, by more than the spread of the samples."


def _because(pair):
    if pair.word == "other settings":
        return f"{pair.word}: {', '.join(key for key, _, _ in pair.settings)}"
    if pair.word == "not measured":
        return f"{pair.word} (A {differences.status(pair.a)}, B {differences.status(pair.b)})"
    return pair.word


def _wrapped(text):
    indent = "  " if not text.startswith(" ") else "    "
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
                         replace_whitespace=False, drop_whitespace=True)  # fmt: skip
