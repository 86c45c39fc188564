"""`refit probe`: matrices of pairs, tables of sizes, JSON and hardware file agree with each other; mistakes are refused.

    run_probe.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER
"""

import math
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

SHORT = ("--bytes", "256KiB", "--seconds", 0.002)


def measured(suite, ranks, name, *options):
    ended = suite.run(ranks, "probe", *SHORT, *options, "--json", f"{name}.json", "--save", f"{name}.toml", "--force")
    suite.check_code(ended, 0, name)
    result = suite.result(f"{name}.json", ended)
    suite.check((result["schema"], result["schema_version"], result["status"], result["exit_code"]) == ("refit.probe", 1, "passed", 0),
                f"{name}: {result['schema']} {result['status']}", ended)  # fmt: skip
    suite.check(result["ranks"] == ranks == len(result["environment"]["ranks"]), f"{name}: ranks", ended)
    return ended, result


def values_of(matrix):
    return {(i, j): rate for i, row in enumerate(matrix["bytes_per_second"]) for j, rate in enumerate(row) if rate is not None}


def check_matrix(suite, matrix, ranks, alone):
    """Every ordered pair has a rate, no rank has one with itself; the summary is that of the rates."""
    what = f"{matrix['direction']} {matrix['mechanism']}"
    values = values_of(matrix)
    suite.check(set(values) == {(i, j) for i in range(ranks) for j in range(ranks) if i != j}, f"{what}: pairs {sorted(values)}")
    suite.check(all(0 < rate < 1e15 for rate in values.values()), f"{what}: rates {values}")
    suite.check(matrix["alone"] == alone and matrix["bytes"] == 256 << 10 and matrix["pairs"] == len(values), f"{what}: {matrix}")
    total = math.fsum(values.values())
    for key, expected in (("sum", total), ("min", min(values.values())), ("max", max(values.values())), ("mean", total / len(values))):
        suite.check(math.isclose(matrix[key], expected, rel_tol=1e-9), f"{what}: {key} {matrix[key]}, not {expected}")
    if matrix["direction"] == "both_ways":
        suite.check(all(values[i, j] == values[j, i] for i, j in values), f"{what}: not symmetric: {values}")


def text_of(rate):
    return f"{rate / 1e9:.4g}"


def check_printed(suite, ended, matrix):
    """The printed matrix is JSON's, and its last line names the slowest and the fastest pair."""
    what = f"{matrix['direction'].replace('_', ' ')}, {matrix['mechanism']}"
    block = re.search(rf"^# {what}, 256KiB, .*\n#[ \d]+\n((?:  +\d+ .*\n)+)# SUM (\S+)  MIN (\S+) \((\d+) -> (\d+)\)"
                      r"  MAX (\S+) \((\d+) -> (\d+)\)  MEAN (\S+)  of", ended.out, re.MULTILINE)  # fmt: skip
    if not suite.check(block is not None, f"{what}: not printed", ended):
        return
    rows = [line.split() for line in block[1].splitlines()]
    expected = [[str(i), *("-" if rate is None else text_of(rate) for rate in row)] for i, row in enumerate(matrix["bytes_per_second"])]
    suite.check(rows == expected, f"{what}: {rows} printed, {expected} in JSON", ended)
    values = values_of(matrix)
    suite.check([block[2], block[3], block[6], block[9]] == [text_of(matrix[key]) for key in ("sum", "min", "max", "mean")],
                f"{what}: summary {block.groups()}", ended)  # fmt: skip
    suite.check(values[int(block[4]), int(block[5])] == min(values.values()), f"{what}: the slowest pair", ended)
    suite.check(values[int(block[7]), int(block[8])] == max(values.values()), f"{what}: the fastest pair", ended)


def everything(suite):
    """Four ranks, each pair alone."""
    ended, result = measured(suite, 4, "four", "--sizes", "4KiB:100KiB")
    for part in ("one_way", "both_ways"):
        found = [matrix["mechanism"] for matrix in result["matrices"] if matrix["direction"] == part]
        suite.check(found == ["stores", "messages"], f"{part}: {found}", ended)
    for matrix in result["matrices"]:
        check_matrix(suite, matrix, 4, True)
        check_printed(suite, ended, matrix)
    # the pairs of the size tables are those that the one-way matrices say
    best = {}
    for matrix in result["matrices"]:
        for pair, rate in values_of(matrix).items():
            if matrix["direction"] == "one_way":
                best[pair] = max(best.get(pair, 0), rate)
    pairs = {row["pair"]: (row["from"], row["to"]) for row in result["sizes"]}
    suite.check(best[pairs["slowest"]] == min(best.values()), f"slowest {pairs} of {best}", ended)
    alike = min(best.values()) > 0.9 * max(best.values())
    suite.check(("fastest" in pairs) != alike, f"fastest {pairs} of {best}", ended)
    if not alike:
        suite.check(best[pairs["fastest"]] == max(best.values()), f"fastest {pairs} of {best}", ended)
    for pair, ends in pairs.items():
        for mechanism in ("stores", "messages"):
            rows = [row for row in result["sizes"] if (row["pair"], row["mechanism"]) == (pair, mechanism)]
            suite.check([row["bytes"] for row in rows] == [4096, 16384, 65536], f"{pair} {mechanism}: {rows}", ended)
            suite.check(all((row["from"], row["to"]) == ends and row["seconds"] > 0 < row["bytes_per_second"] for row in rows),
                        f"{pair} {mechanism}: {rows}", ended)  # fmt: skip
    suite.check(result["rates"]["memory"] > 0 < result["rates"]["messages"] and result["latency_seconds"] > 0, f"{result['rates']}", ended)
    listed = re.findall(r"^# +(\d+) +(\d+)  (\S+) +(\S.*)$", ended.out, re.MULTILINE)
    known = [(str(rank["rank"]), str(rank["pid"]), rank["host"], rank["device"]) for rank in result["environment"]["ranks"]]
    suite.check(listed == known and len({rank["pid"] for rank in result["environment"]["ranks"]}) == 4, f"{listed} {known}", ended)
    with open(suite.path("four.toml"), encoding="utf-8") as file:
        saved = dict(re.findall(r"^(\w+) = (\S+)$", file.read(), re.MULTILINE))
    suite.check(math.isclose(float(saved["memory"]) * 1e9, result["rates"]["memory"], rel_tol=1e-5), f"{saved}", ended)


def in_rounds(suite):
    """Pairs of a round at once: every pair has its turn, of an odd number of ranks too."""
    ended, result = measured(suite, 3, "rounds", "--pairs", "rounds", "--sizes", "none")
    suite.check(result["settings"]["pairs"] == "rounds" and "the pairs of a round at once" in ended.out, "rounds", ended)
    suite.check(len(result["matrices"]) == 4 and result["sizes"] == [], "matrices and no sizes", ended)
    for matrix in result["matrices"]:
        check_matrix(suite, matrix, 3, False)


def one_rank(suite):
    ended, result = measured(suite, 1, "one")
    suite.check(result["matrices"] == result["sizes"] == [] and result["rates"]["memory"] > 0, "one rank", ended)


def without_shared_memory(suite):
    """Where arenas cannot be mapped, messages are measured all the same."""
    ended = suite.start(2, "probe", "--bytes", "32MiB", "--seconds", 0.002, "--sizes", "4KiB", "--json", "limited.json", "--force",
                        before=("bash", "-c", 'ulimit -f 32768 && exec "$@"', "_")).wait()  # fmt: skip
    suite.check_code(ended, 0, "a small limit of file sizes")
    result = suite.result("limited.json", ended)
    suite.check({matrix["mechanism"] for matrix in result["matrices"]} == {"messages"}, "messages alone", ended)
    suite.check(any("stores are not measured" in note for note in result["notes"]), f"{result['notes']}", ended)


def mistakes(suite):
    for options, word in (
        (("--bytes", "0"), "--bytes"), (("--bytes", "1PiB"), "--bytes"), (("--sizes", "4KiB,huge"), "huge"),
        (("--sizes", "1MiB:4KiB"), "--sizes"), (("--sizes", "4KiB:1MiB:1"), "factor"), (("--sizes", ""), "--sizes"),
        (("--pairs", "some"), "--pairs"), (("--seconds", "0"), "--seconds"), (("--device", "tpu"), "--device"),
        (("--save", "same.toml", "--json", "./same.toml"), "same.toml"), (("--json", "no/such/folder.json"), "no/such"),
    ):  # fmt: skip
        ended = suite.run(0, "probe", *SHORT, *options)
        suite.check_code(ended, 2, f"{options}")
        suite.check(word in ended.err and ended.out == "", f"{options}: not named, or more than that", ended)
    codes = {suite.run(0, "probe", *SHORT, "--sizes", "none", "--device", device).code for device in ("cpu", "cuda")}
    suite.check(codes == {0, 77}, f"--device cpu and cuda, of which a build has one: {codes}")
    with open(suite.path("mine.json"), "w", encoding="utf-8") as file:
        file.write("mine")
    ended = suite.run(2, "probe", *SHORT, "--json", "mine.json")
    suite.check_code(ended, 2, "an existing file")
    suite.check(ended.err.count("mine.json exists") == 1, "said once", ended)
    with open(suite.path("mine.json"), encoding="utf-8") as file:
        suite.check(file.read() == "mine", "kept", ended)
    ended = suite.run(2, "probe", *SHORT, "--json", "/dev/full", "--sizes", "none")
    suite.check_code(ended, 3, "a full disk")
    suite.check("/dev/full" in ended.err, "the output is named", ended)


def interrupted(suite):
    """SIGTERM ends it with a result, which has no measurements."""
    job = suite.start(2, "probe", "--seconds", 20, "--json", "interrupted.json", "--force")
    while len(job.ranks()) < 2 and job.process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    job.process.send_signal(signal.SIGTERM)
    ended = job.wait(60)
    result = suite.result("interrupted.json", ended)
    suite.check((result.get("status"), result.get("exit_code")) == ("interrupted", 3), f"{result.get('status')}", ended)
    suite.check("matrices" not in result and result["error"]["kind"] == "interrupted", "measurements", ended)


Suite(__doc__).main(everything, in_rounds, one_rank, without_shared_memory, mistakes, interrupted)
