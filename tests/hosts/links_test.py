"""Refits between hosts: what every executor sends over every link, counted there, and how fast at most.

The oracle for bytes is the plan's table of bytes from rank to rank, or the model's size where a byte enters each host once; for
time it is the link's rate. (Arguments: host_suite.py)
"""

import sys
from dataclasses import dataclass, field

from host_suite import HostSuite, at_rest

MODEL = ("--model", "smollm2-135m-small")  # 44 MB
RATE = 500  # Mbit/s: the links, not the cores, are what limits a refit
BURST = 256 << 10  # bytes that pass a limited link at once (hosts.py)
OVERHEAD = 0.05  # of headers and acknowledgements, in bytes
SLACK = 128 << 10  # bytes of what is no payload: barriers, the supervisors' news


@dataclass
class Case:
    """One run. `bytes`: "pairs" as the plan says, "once" each byte of the model into each host without train ranks;
    "none" since every host has all of the model in train."""

    name: str
    ranks: str
    train: str
    gen: str
    options: tuple = ()
    by: str = "slot"
    bytes: str = "pairs"
    notes: tuple = field(default=())  # words of the run's notes


def executor(name):
    return ("--executor", name)


CASES = (
    Case("direct", "h1:3,h2:3", "TP3", "TP3", executor("direct"), notes=("use p2p",)),
    Case("p2p", "h1:3,h2:3", "TP3", "TP3", executor("p2p")),
    Case("golden", "h1:3,h2:3", "TP3", "TP3", executor("golden"), bytes="once"),
    Case("direct-nodes", "h1:3,h2:3", "TP3", "TP3", executor("direct"), by="node", notes=("use p2p",)),
    Case("stages", "h1:3,h2:2,h3:1", "PP3", "TP3", (*executor("p2p"), "--set", "refit.communicators=per-stage")),
    Case("misc", "h1:3,h2:3", "TP3", "TP3", (*executor("p2p"), "--bulk", "ffn"), bytes="once"),
    Case("misc-3", "h1:1,h2:1,h3:2", "TP1", "TP3", (*executor("golden"), "--bulk", "ffn"), bytes="once"),
    Case("fan-out", "h1:1,h2:2", "TP1", "DP2", (*executor("direct"), "--fan-out", "on"), bytes="once"),
    Case("near", "h1:2,h2:2", "DP2", "DP2", executor("direct"), by="node", bytes="none"),
    Case("copies", "h1:1,h2:2", "TP1", "DP2", (*executor("direct"), "--fan-out", "off")),
)


def placed(case):
    """The host of each rank, as mpirun places them."""
    slots = [(host, int(count)) for host, _, count in (word.partition(":") for word in case.ranks.split(","))]
    if case.by == "slot":
        return [host for host, count in slots for _ in range(count)]
    return [host for turn in range(max(count for _, count in slots)) for host, count in slots if turn < count]


def expected_bytes(suite, case, place, result):
    """(sent, received) of each host in one refit."""
    layouts = ("--train", case.train, "--gen", case.gen)
    if case.bytes == "pairs":
        return suite.crossing(place, *MODEL, *layouts, *case.options)
    if case.bytes == "none":
        return dict.fromkeys(place, 0), dict.fromkeys(place, 0)
    trainers = set(place[: len(place) - result["gen"]["ranks"]])
    total = result["model"]["bytes"]
    received = {host: 0 if host in trainers else total for host in place}
    suite.check(len(trainers) == 1, f"{case.name}: {place}: train is on several hosts")
    return None, received


def check_bytes(suite, case, what, counted, expected, other):
    for host, count in expected.items():
        allowed = OVERHEAD * (count + other.get(host, 0)) + SLACK
        found = counted[host, what]
        suite.check(0 <= found - count <= allowed, f"{case.name}: {host} {what} {found} bytes, not {count}")


def check_times(suite, case, ended, result, busiest):
    """No refit is faster than its link, nor than the bound would be at the link's rate: on a machine whose cores are busy with
    other things the probe finds less."""
    link = RATE * 1e6 / 8
    least = (busiest - BURST) / link
    suite.check(min(result["weight_sync"]["samples"]) > 0.98 * least,
                f"{case.name}: {result['weight_sync']['samples']}, but {busiest} bytes take {least:.3f} s", ended)  # fmt: skip
    rates = result["rates"]
    efficiency = result["efficiency"] * rates.get("network_slowest", rates["network"]) / link
    suite.check(efficiency < 1.05, f"{case.name}: efficiency {efficiency}", ended)


def run(suite, cluster, case):
    place = placed(case)
    paused = suite.start_paused(
        cluster.mpirun(case.ranks, by=case.by), ("update", "verify"), "run", *MODEL, "--train", case.train, "--gen", case.gen,
        *case.options, "--steps", 2, "--warmup", 1, "--force", "--json", f"{case.name}.json",
    )  # fmt: skip
    counts = []  # before and after the second refit: the first connects, too
    updates = 0
    while phase := paused.reaches():
        updates += phase == "update"
        if updates == 2:
            counts.append(at_rest(cluster.counted))
        paused.goes_on()
    ended = paused.job.wait()
    if not suite.check_code(ended, 0, case.name):
        return
    result = suite.result(f"{case.name}.json", ended)
    hosts_of_ranks = [rank["host"] for rank in result["environment"]["ranks"]]
    suite.check(hosts_of_ranks == place, f"{case.name}: ranks on {hosts_of_ranks}, not {place}", ended)
    found = result["verification"]
    suite.check(found["refits"] == 3 and found["elements_wrong"] == 0, f"{case.name}: {found}", ended)
    notes = " ".join(result.get("notes", []))
    for words in case.notes:
        suite.check(words in notes, f"{case.name}: notes without '{words}': {notes}", ended)
    if not suite.check(len(counts) == 2, f"{case.name}: {len(counts)} phases of the second refit, not 2", ended):
        return
    moved = {key: counts[1][key] - counts[0][key] for key in counts[0]}
    sent, received = expected_bytes(suite, case, place, result)
    if sent is not None:
        check_bytes(suite, case, "sent", moved, sent, received)
    check_bytes(suite, case, "received", moved, received, sent or {})
    check_times(suite, case, ended, result, max(received.values()))


def links(suite):
    with suite.hosts(3) as cluster:
        cluster.limit(f"{RATE}mbit")
        for case in CASES:
            if suite.case in case.name:
                run(suite, cluster, case)
                print(f"  {case.name}", flush=True)


if __name__ == "__main__":
    suite = HostSuite(__doc__)
    suite.case = suite.rest[suite.rest.index("--case") + 1] if "--case" in suite.rest else ""
    suite.main(links)
    sys.exit(0)
