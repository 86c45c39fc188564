#!/usr/bin/env python3
"""The refit that users compare with: gather and packed broadcast, in torch alone, of the tensors that refit moves.

    build/cpu/bin/refit inspect qwen3-8b > tensors.txt      # a model's name, a config.json or a checkpoint
    scripts/torch_refit.py tensors.txt --train-ranks 2 --gen-ranks 2

starts one process per rank on this host, with NCCL and one GPU each, or with gloo on CPUs. Train ranks hold equal parts
of each tensor's rows (vectors, and what does not divide, whole), gen ranks likewise. In a refit the train ranks gather
tensor by tensor; rank 0 packs the bytes, closes a buffer after the tensor that makes it longer than --buffer-mb, and
broadcasts it to the gen ranks, which copy their parts out; two buffers rotate, each with a stream of its own. That is
what RL frameworks do for tensors without a better path (refit's misc).

Every refit moves other values, and every part that arrives is compared bit by bit with what it must be. A refit's time
is the maximum over ranks from leaving a barrier until all is complete, as refit's weight_sync. Ends with 1 if anything
was wrong. Needs torch.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

try:
    import torch
    import torch.distributed
    import torch.multiprocessing
except ImportError as error:
    sys.exit(f"torch_refit.py: {error}; it times torch itself, so install torch for {sys.executable}")

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8, "F8_E4M3": torch.uint8, "F8_E8M0": torch.uint8,
}  # fmt: skip
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
BUFFERS = 2


@dataclass(frozen=True)
class Tensor:
    """One tensor, as rows of equal length: a vector is one row."""

    name: str
    item: int  # bytes of an element
    rows: int
    columns: int

    def part(self, rank, ranks):
        """The rows of one of `ranks` ranks: an equal part, or all of them where they do not divide."""
        if self.rows % ranks != 0:
            return range(self.rows)
        count = self.rows // ranks
        return range(rank * count, (rank + 1) * count)

    def bytes_of(self, rows):
        return len(rows) * self.columns * self.item

    @property
    def bytes(self):
        return self.bytes_of(range(self.rows))


def read_tensors(path):
    """The table of `refit inspect`: name, dtype, [shape], ..."""
    tensors = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            match = re.match(r"(\S+) +([A-Z]\w*) +\[([0-9, ]*)\] ", line)
            if not match:
                continue
            name, dtype, shape = match.groups()
            if dtype not in DTYPES:
                sys.exit(f"{path}: {name} has dtype {dtype}, which is none of {', '.join(DTYPES)}")
            extents = [int(extent) for extent in shape.split(",") if extent.strip()]
            rows = extents[0] if len(extents) > 1 else 1
            columns = 1
            for extent in extents[1:] if len(extents) > 1 else extents:
                columns *= extent
            tensors.append(Tensor(name, DTYPES[dtype].itemsize, rows, columns))
    if not tensors:
        sys.exit(f"{path}: no tensors; this must be what `refit inspect MODEL` prints")
    return tensors


def make_packs(tensors, limit):
    """Lists of tensor numbers: each closed after the tensor that makes it longer than `limit` bytes."""
    packs, size = [[]], 0
    for number, tensor in enumerate(tensors):
        packs[-1].append(number)
        size += tensor.bytes
        if size > limit:
            packs.append([])
            size = 0
    return [pack for pack in packs if pack]


def values(tensor, number, rows, step, device):
    """The bytes of some rows in a step: others in each tensor, row, column (mod 2^16 for two bytes) and step."""
    row = torch.arange(rows.start, rows.stop, dtype=torch.int32, device=device)[:, None]
    column = torch.arange(tensor.columns, dtype=torch.int32, device=device)[None, :]
    mixed = row * 40503 + column * 9973 + number * 7919 + step * 32749
    return mixed.to(INTEGERS[tensor.item]).view(torch.uint8).flatten()


class Rank:
    """One process: train ranks come first."""

    def __init__(self, rank, args, tensors, device):
        self.args, self.tensors, self.device = args, tensors, device
        self.train_ranks, self.gen_ranks = args.train_ranks, args.gen_ranks
        self.is_train, self.is_root = rank < args.train_ranks, rank == 0
        self.number, self.of = (rank, self.train_ranks) if self.is_train else (rank - self.train_ranks, self.gen_ranks)
        world = range(self.train_ranks + self.gen_ranks)
        self.gatherers = torch.distributed.new_group(list(world[: self.train_ranks]))
        self.receivers = torch.distributed.new_group([0, *world[self.train_ranks :]])
        self.packs = make_packs(tensors, args.buffer_mb * 2**20)
        self.parts = [self.bytes(tensor.bytes_of(self.rows(tensor))) for tensor in tensors]
        largest = max(sum(tensors[number].bytes for number in pack) for pack in self.packs)
        has_buffers = self.is_root or not self.is_train
        self.buffers = [self.bytes(largest) for _ in self.packs[:BUFFERS]] if has_buffers else []
        cuda = device.type == "cuda"
        self.streams = [torch.cuda.Stream() if cuda else None for _ in range(BUFFERS)]

    def bytes(self, count):
        return torch.empty(count, dtype=torch.uint8, device=self.device)

    def rows(self, tensor):
        return tensor.part(self.number, self.of)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def maximum(self, value):
        """Of all ranks; returns when all have come here."""
        tensor = torch.tensor([float(value)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.item()

    def update(self, step):
        """New values in every train rank's parts."""
        for number, tensor in enumerate(self.tensors):
            if self.is_train:
                self.parts[number].copy_(values(tensor, number, self.rows(tensor), step, self.device))

    def refit(self):
        for turn, pack in enumerate(self.packs):
            stream = self.streams[turn % BUFFERS]
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                buffer = self.buffers[turn % BUFFERS] if self.buffers else None
                if self.is_train:
                    self.gather(pack, buffer)
                if buffer is not None:
                    size = sum(self.tensors[number].bytes for number in pack)
                    torch.distributed.broadcast(buffer[:size], 0, group=self.receivers)
                if not self.is_train:
                    self.unpack(pack, buffer)
        self.synchronize()

    def gather(self, pack, buffer):
        begin = 0
        for number in pack:
            tensor, whole = self.tensors[number], self.parts[number]
            if whole.numel() < tensor.bytes:
                whole = self.bytes(tensor.bytes)
                torch.distributed.all_gather_into_tensor(whole, self.parts[number], group=self.gatherers)
            if self.is_root:
                buffer[begin : begin + tensor.bytes].copy_(whole)
            begin += tensor.bytes

    def unpack(self, pack, buffer):
        begin = 0
        for number in pack:
            tensor, rows = self.tensors[number], self.rows(self.tensors[number])
            first = begin + tensor.bytes_of(range(rows.start))
            self.parts[number].copy_(buffer[first : first + tensor.bytes_of(rows)])
            begin += tensor.bytes

    def wrong(self, step):
        """Names of tensors of which this rank holds other bytes than it must."""
        if self.is_train:
            return []
        numbered = enumerate(self.tensors)
        return [
            tensor.name
            for number, tensor in numbered
            if not torch.equal(self.parts[number], values(tensor, number, self.rows(tensor), step, self.device))
        ]

    def timed(self, step):
        """Seconds of one refit, the maximum over ranks, and whether any rank has wrong bytes."""
        self.update(step)
        self.synchronize()
        self.maximum(0)
        start = time.perf_counter()
        self.refit()
        seconds = self.maximum(time.perf_counter() - start)
        names = self.wrong(step)
        if names:
            print(f"gen rank {self.number}: {len(names)} tensors are wrong, the first: {names[0]}", file=sys.stderr)
        return seconds, self.maximum(len(names)) > 0


def report(args, tensors, seconds, wrong, device):
    payload = sum(tensor.bytes for tensor in tensors)
    median = statistics.median(seconds)
    widths = (8, 8, 6, 4, 10, 10, 10, 8, 12)
    heading = ("tensors", "GB", "train", "gen", "min (ms)", "median", "max", "GB/s", "wrong refits")
    times = [f"{1e3 * value:.3f}" for value in (min(seconds), median, max(seconds))]
    sides = (args.train_ranks, args.gen_ranks)
    row = (len(tensors), f"{payload / 1e9:.3f}", *sides, *times, f"{payload / median / 1e9:.2f}", wrong)
    for mark, cells in (("#", heading), (" ", row)):
        print(mark, *(f"{cell:>{width}}" for cell, width in zip(cells, widths)))
    document = {
        "torch": torch.__version__, "device": device.type, "tensors": len(tensors), "payload_bytes": payload,
        "train_ranks": args.train_ranks, "gen_ranks": args.gen_ranks, "buffer_bytes": args.buffer_mb * 2**20,
        "refits_wrong": wrong,
        "seconds": {"samples": seconds, "min": min(seconds), "median": median, "max": max(seconds)},
    }  # fmt: skip
    print(json.dumps(document), flush=True)


def work(rank, args, tensors, meeting, outcome):
    """The whole life of one process."""
    if args.device == "cuda":
        torch.cuda.set_device(rank)
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    world = args.train_ranks + args.gen_ranks
    backend = "nccl" if args.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=world)
    mine = Rank(rank, args, tensors, device)
    results = [mine.timed(step) for step in range(args.warmup + args.steps)]
    seconds = [result[0] for result in results[args.warmup :]]
    wrong = sum(result[1] for result in results)
    if rank == 0:
        report(args, tensors, seconds, wrong, device)
    outcome[rank] = wrong
    torch.distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tensors", help="what `refit inspect` prints, in a file")
    parser.add_argument("--train-ranks", type=int, default=1)
    parser.add_argument("--gen-ranks", type=int, default=1)
    parser.add_argument("--buffer-mb", type=int, default=1024, help="MiB of a packed buffer (default: 1024)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    world = args.train_ranks + args.gen_ranks
    if min(args.train_ranks, args.gen_ranks, args.steps) < 1:
        parser.error("--train-ranks, --gen-ranks and --steps must be at least 1")
    if args.device == "cuda" and world > torch.cuda.device_count():
        parser.error(f"{world} ranks need a GPU each, and there are {torch.cuda.device_count()}; use --device cpu")
    tensors = read_tensors(args.tensors)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        outcome = torch.multiprocessing.get_context("spawn").Array("q", world)
        meeting = os.path.join(folder, "meeting")
        torch.multiprocessing.spawn(work, (args, tensors, meeting, outcome), nprocs=world)
    sys.exit(1 if any(outcome) else 0)


if __name__ == "__main__":
    main()
