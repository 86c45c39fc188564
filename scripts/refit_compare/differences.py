"""What differs between two results of one case: settings, environment, and every figure with its ratio.

Noise. A refit's samples spread; of two medians it is only said that they differ where the middle halves of the samples (from the
25th to the 75th percentile; with fewer than 4 samples all of them) do not overlap. One sample has no spread, and what is measured
once (bound, rates, load) has none that is known. Phases have their least and largest sample: these ranges must not overlap.

A time is called less or more for the same work only where settings and payload are the same, and both runs' data are right.
"""

import re
from dataclasses import dataclass, field

from .documents import each, number, numbers, part, value

FEW = 4  # samples; fewer have no quartiles
# More samples of the same, and limits: these change nothing of what a refit does.
NOT_OF_THE_WORK = {"steps", "timeout_seconds", "phase_seconds", "count_seconds"}
VERSIONS = ("refit", "commit", "compiler", "mpi", "nccl", "cuda", "kokkos", "hdf5", "launcher")
DEVICE_NUMBER = re.compile(r"\bcuda\d+\b|\b[0-9a-fA-F]+:[0-9a-fA-F:.]+")
MS, MB, GB = (1e3, "ms"), (1e-6, "MB"), (1e-9, "GB/s")


@dataclass
class Row:
    """A figure of both; None: not there."""

    group: str
    name: str
    unit: str
    a: float | None
    b: float | None
    mark: str = ""  # differs | "" (no difference that is more than noise)

    @property
    def ratio(self):
        return self.b / self.a if self.a and self.b is not None else None


@dataclass
class Pair:
    """Two results of one case."""

    name: str
    a: dict
    b: dict
    settings: list = field(default_factory=list)  # [(key, of A, of B)] that differ
    environment: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    word: str = ""  # within noise | faster | slower | other settings | wrong data | not measured | unclear | measured once
    sentence: str = ""

    def __post_init__(self):
        self.settings = _unequal(_work(self.a), _work(self.b))
        self.environment = _unequal(_surroundings(self.a), _surroundings(self.b))
        is_probe = all(value(result, "schema") == "refit.probe" for result in (self.a, self.b))
        self.rows = list(_rates_of_probes(self.a, self.b) if is_probe else _rows(self.a, self.b))
        self.word, self.sentence = _verdict_of_probes(self) if is_probe else _verdict(self)


def samples(result):
    return numbers(result, "weight_sync", "samples")


def quantile(values, q):
    """Linear between order statistics, as refit's own (docs/output.md)."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def spread(values):
    """The range in which samples mostly lie; None: one sample, or none, has no spread."""
    if len(values) < 2:
        return None
    return (min(values), max(values)) if len(values) < FEW else (quantile(values, 0.25), quantile(values, 0.75))


def apart(a, b):
    """Do two ranges not overlap? None: at least one is not known."""
    return None if a is None or b is None else a[1] < b[0] or b[1] < a[0]


def status(result):
    """passed, ... ; "not run" where there is no result."""
    found = value(result, "status")
    return found if isinstance(found, str) else "not run"


def is_wrong(result):
    """Are the data of a run known to be wrong? Its times are those of something that is no refit."""
    return status(result) == "failed" or (number(result, "verification", "elements_wrong") or 0) > 0


def _work(result):
    """{name: value} of all that says what was to be done."""
    found = {key: of for key, of in part(result, "settings").items() if key not in NOT_OF_THE_WORK}
    for side in ("train", "gen"):
        found |= {f"{side}.{key}": of for key, of in part(result, side).items() if not isinstance(of, (list, dict))}
    found |= {f"model.{key}": of for key, of in part(result, "model").items() if key != "source"}
    found |= {f"payload.{key}": of for key, of in part(result, "payload").items()}
    found["ranks"] = value(result, "ranks")
    return found


def _surroundings(result):
    environment = part(result, "environment")
    found = {key: environment.get(key) for key in VERSIONS}
    hosts = [f"{host.get('cores', '?')} cores, {host.get('cpu') or 'CPU not known'}" for host in each(environment, "hosts")]
    found["hosts"] = "; ".join(f"{hosts.count(kind)} x {kind}" for kind in dict.fromkeys(hosts)) or None
    devices = {DEVICE_NUMBER.sub("", str(rank.get("device", ""))).strip(" ,") for rank in each(environment, "ranks")}
    found["devices"] = ", ".join(sorted(device or "GPU" for device in devices)) or None
    transports = environment.get("mpi_transports")
    found["mpi_transports"] = " ".join(map(str, transports)) if isinstance(transports, list) else None
    return found | {f"${key}": of for key, of in part(environment, "variables").items()}


def _unequal(a, b):
    keys = [*a, *(key for key in b if key not in a)]
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _rows(a, b):
    """Every figure that one of them has."""

    def row(group, name, form, *path, mark=""):
        found = [number(result, *path) for result in (a, b)]
        if not any(found) and group != "proof":  # what neither has, such as misc under bulk = all
            return
        if found == [None, None]:
            return
        scaled = [None if one is None else one * form[0] for one in found]
        yield Row(group, name, form[1], *scaled, mark)

    def exact(group, name, form, *path):
        yield from row(group, name, form, *path, mark="differs" if value(a, *path) != value(b, *path) else "")

    for name in ("total", "bulk", "misc"):
        yield from exact("payload", name, MB, "payload", f"{name}_bytes")
    yield from exact("payload", "on the wire", MB, "wire", "bytes")
    yield from exact("payload", "copies", (1, ""), "wire", "copies")
    yield from row("time", "bound", MS, "bound", "seconds")
    differ = "differs" if apart(spread(samples(a)), spread(samples(b))) else ""
    for name in ("first", "min", "median", "p95", "max"):
        yield from row("time", f"weight_sync {name}", MS, "weight_sync", name, mark=differ if name == "median" else "")
    yield from row("time", "efficiency", (1, ""), "efficiency")
    rates = [_bandwidth(result) for result in (a, b)]
    if rates != [None, None]:
        yield Row("time", "algbw", "GB/s", *rates)
    yield from row("time", "model", MS, "model_seconds", "total")
    for phase in dict.fromkeys([*part(a, "phases"), *part(b, "phases")]):
        ranges = [_range(part(result, "phases", phase)) for result in (a, b)]
        yield from row("phases, medians", phase, MS, "phases", phase, "median", mark="differs" if apart(*ranges) else "")
    for rate in dict.fromkeys([*part(a, "rates"), *part(b, "rates")]):
        yield from row("rates", rate, GB, "rates", rate)
    for name in ("train", "gen", "staging", "staged"):
        yield from exact("memory, most of a rank", name, MB, "memory", f"{name}_bytes_max")
    yield from exact("load", "read", MB, "load", "bytes_read")
    yield from exact("proof", "elements", (1, ""), "verification", "elements")
    yield from exact("proof", "wrong elements", (1, ""), "verification", "elements_wrong")
    yield from exact("proof", "KL max", (1, ""), "verification", "kl", "max")


def _rates_of_probes(a, b):
    """Of each matrix its pairs in numbers, of each size its rate and time, and the rates that the bound counts."""

    def rows(group, names, forms, key):
        """Rows of the entries with the same key, for each (name, form, path)."""
        found = [{key(one): one for one in each(result, group)} for result in (a, b)]
        for entry in dict.fromkeys([*found[0], *found[1]]):
            for name, form in zip(names, forms):
                values = [number(one.get(entry), name) for one in found]
                if values != [None, None]:
                    yield entry, name, form[1], *(None if one is None else one * form[0] for one in values)

    def matrix(one):
        load = "" if one.get("alone", True) else ", all at once"
        return f"{str(one.get('direction')).replace('_', ' ')}, {one.get('mechanism')}{load}"

    for entry, name, *rest in rows("matrices", ("min", "mean", "max", "sum"), [GB] * 4, matrix):
        yield Row(f"pairs: {entry}", name, *rest)
    for (pair, mechanism, size), name, *rest in rows(
        "sizes", ("bytes_per_second", "seconds"), (GB, (1e6, "us")),
        lambda one: (str(one.get("pair")), str(one.get("mechanism")), str(one.get("bytes"))),
    ):  # fmt: skip
        what = "back to back" if name == "bytes_per_second" else "one alone"
        yield Row(f"{pair} pair, {mechanism}", f"{size} B, {what}", *rest)
    for rate in dict.fromkeys([*part(a, "rates"), *part(b, "rates")]):
        values = [number(result, "rates", rate) for result in (a, b)]
        if values != [None, None]:
            yield Row("rates", rate, "GB/s", *(None if one is None else one / 1e9 for one in values))
    latency = [number(result, "latency_seconds") for result in (a, b)]
    if latency != [None, None]:
        yield Row("rates", "latency", "us", *(None if one is None else one * 1e6 for one in latency))


def _verdict_of_probes(pair):
    for letter, result in (("A", pair.a), ("B", pair.b)):
        if status(result) != "passed":
            return "not measured", f"{letter} has measured nothing: {status(result)}"
    if pair.settings:
        return "other settings", f"they did not do the same: {', '.join(key for key, _, _ in pair.settings)} differ"
    return "measured once", "every figure of a probe is measured once: what is noise, only a second probe of the same machine tells"


def _range(phase):
    """The least and the largest of several samples; None where there is one."""
    low, high = number(phase, "min"), number(phase, "max")
    return None if low is None or high is None or low == high else (low, high)


def _bandwidth(result):
    payload, median = number(result, "payload", "total_bytes"), number(result, "weight_sync", "median")
    return payload / median / 1e9 if payload is not None and median else None


def _verdict(pair):
    medians = [number(result, "weight_sync", "median") for result in (pair.a, pair.b)]
    for letter, result, median in (("A", pair.a, medians[0]), ("B", pair.b, medians[1])):
        if not median:
            why = value(result, "error", "message")
            return "not measured", f"{letter} has no refits to compare: {status(result)}" + (f", {why}" if why else "")
    ratio = f"B's median weight_sync is {medians[1] / medians[0]:.3g} times A's"
    wrong = [letter for letter, result in (("A", pair.a), ("B", pair.b)) if is_wrong(result)]
    if wrong:
        whose = " and ".join(f"{letter}'s" for letter in wrong)
        return "wrong data", f"{whose} data are wrong: its times say nothing of a refit; {ratio}"
    if pair.settings:
        names = ", ".join(key for key, _, _ in pair.settings[:4]) + (", ..." if len(pair.settings) > 4 else "")
        return "other settings", f"{ratio}, but they did not do the same: {names} differ"
    ranges = [spread(samples(result)) for result in (pair.a, pair.b)]
    differ = apart(*ranges)
    if differ is None:
        return "unclear", f"{ratio}; with one sample nobody knows the noise: run more steps"
    told = ", ".join(f"{letter} {of[0] * 1e3:.4g} to {of[1] * 1e3:.4g} ms" for letter, of in zip("AB", ranges))
    of = "all samples" if min(len(samples(r)) for r in (pair.a, pair.b)) < FEW else "the middle half of the samples"
    if not differ:
        return "within noise", f"{ratio}: no more than noise ({of}: {told})"
    return "faster" if medians[1] < medians[0] else "slower", f"{ratio}: more than noise ({of}: {told})"


def pairs(a, b):
    """([Pair] of the cases that both documents have, in A's order; names only in A; names only in B)"""
    both = [Pair(name, a.cases[name], b.cases[name]) for name in a.cases if name in b.cases]
    return both, [name for name in a.cases if name not in b.cases], [name for name in b.cases if name not in a.cases]
