"""Thousands of refits in one run: no rank's memory grows with their number; rank 0 alone keeps their records.

    run_flat.py --refit EXE --engines engines.tar.xz --inputs FOLDER --work FOLDER [--refits N] [--table]

With --table it prints every rank's VmRSS at several refits.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from job import Suite  # noqa: E402

RECORD = 400  # bytes of a refit's record at rank 0, at most
SLACK = 128 * 1024  # bytes that a rank may take in all between two samples: some pages of its libraries


def resident(pid):
    """VmRSS in bytes, without pages of shared windows, which come into being as they are touched."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        sizes = {line.split(":")[0]: line.split()[1] for line in file if line.startswith(("VmRSS", "RssShmem"))}
    return 1024 * (int(sizes["VmRSS"]) - int(sizes["RssShmem"]))


def rank_of(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        words = dict(word.split(b"=", 1) for word in file.read().split(b"\0") if b"=" in word)
    return int(words[b"OMPI_COMM_WORLD_RANK"])


def sizes(pids):
    """rank -> bytes; fewer where the job has ended meanwhile."""
    found = {}
    for pid in pids:
        try:
            found[rank_of(pid)] = resident(pid)
        except (OSError, KeyError):
            pass
    return found


def sample(suite, refits, at, *options):
    """refit number -> rank -> bytes, taken when the line of that refit is printed."""
    job = suite.start(
        3, "run", "--checkpoint", suite.checkpoint("llama_tied"), "--train", "TP1", "--gen", "DP2", "--steps", refits,
        "--warmup", 0, "--force", *options,
    )  # fmt: skip
    samples = {}
    lines = []
    for line in job.process.stdout:
        lines = [*lines[-40:], line]
        words = line.split()
        if not words or words[0] not in at:
            continue
        samples[int(words[0])] = sizes(job.ranks())
    ended = job.wait()
    ended = type(ended)(ended.command, ended.code, "".join(lines), ended.err, ended.seconds)
    suite.check_code(ended, 0, " ".join(map(str, options)))
    return samples, ended


def check_flat(suite, refits, options):
    first, last = refits // 8, refits // 2  # later lines may come from the pipe when the job has ended
    at = {str(number) for number in (first, refits // 4, last)}
    samples, ended = sample(suite, refits, at, *options)
    name = " ".join(map(str, options))
    if suite.table:
        print(f"{name}: {refits} refits in {ended.seconds:.1f} s; VmRSS - RssShmem in KiB")
        for number, ranks in sorted(samples.items()):
            print(f"  refit {number:>6}: " + "  ".join(f"rank {rank} {ranks[rank] // 1024}" for rank in sorted(ranks)))
    if not suite.check(all(len(samples.get(number, ())) == 3 for number in (first, last)), f"{name}: {samples}", ended):
        return
    for rank in range(3):
        growth = samples[last][rank] - samples[first][rank]
        # A vector that grows takes twice what it holds, and three times while it moves.
        allowed = SLACK + (3 * RECORD * refits if rank == 0 else 0)
        suite.check(growth <= allowed, f"{name}: rank {rank} grew by {growth} bytes, {allowed} are allowed", ended)


def unverified(suite):
    check_flat(suite, 2 * suite.refits, ("--set", "run.verify=last"))


def verified(suite):
    check_flat(suite, suite.refits, ("--set", "run.verify=every", "--executor", "p2p", "--bulk", "ffn"))


def by_golden(suite):
    check_flat(suite, suite.refits, ("--set", "run.verify=off", "--set", "run.update=none", "--executor", "golden"))


def main():
    suite = Suite(__doc__)
    parser = argparse.ArgumentParser()
    parser.add_argument("--refits", type=int, default=2000)
    parser.add_argument("--table", action="store_true")
    parser.parse_args(suite.rest, namespace=suite)
    suite.main(unverified, verified, by_golden)


main()
