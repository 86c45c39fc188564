#!/usr/bin/env python3
"""Times refits between processes that own their weights, through the Python module, beside the executable's.

    scripts/embed_bench.py inputs/models/qwen3-0.6b --train "megatron TP1" --gen "vllm TP1" --device cuda \\
        --executable build/cuda/bin/refit --json out.json

Starts one process for each rank of the plan on this host. Each holds its tensors as torch makes them (GPUs: ranks take
them in turn; CPUs: engines' tensors in shared memory), writes other weights before every refit and proves every one. With
--executable, `refit run` of the same plan follows under mpirun, in the same run of this script. weight_sync of a refit is
the longest of all ranks. Needs torch, and the module for the device.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

PORT_KEY = "refit-bench"


def dtype_of(torch, name):
    return {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}.get(name, torch.uint8)


def tensors_of(torch, storages, device, shared):
    """Memory for everything that a rank stores."""
    made = {}
    for name, shape, dtype in storages:
        made[name] = torch.zeros(shape, dtype=dtype_of(torch, dtype), device=device)
        if shared:
            made[name].share_memory_()
    return made


def rank_main(arguments):
    import refit
    import torch

    rank = arguments.rank
    plan = refit.Plan(arguments.model, train=arguments.train, gen=arguments.gen)
    if arguments.device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    device = torch.device(arguments.device)
    store = torch.distributed.FileStore(arguments.store, plan.ranks)
    control = refit.from_store(store, rank, plan.ranks, PORT_KEY)
    sides = {side: plan.rank_of(side, rank) for side in ("train", "gen")}
    held = {
        side: tensors_of(torch, plan.storages(side, own), device, side == "gen" and arguments.device == "cpu")
        for side, own in sides.items()
        if own is not None
    }
    begin = time.perf_counter()
    session = refit.Session(plan, control, **held, executor=arguments.executor, timeout=arguments.timeout)
    prepared = time.perf_counter() - begin
    seconds = []
    with session:
        for step in range(arguments.warmup + arguments.steps):
            for number, tensor in enumerate(held.get("train", {}).values()):
                # The same on every rank that holds the same part: replicas must agree.
                tensor.view(torch.uint8).fill_((number * 37 + step * 11) % 63)
            found = session.refit()
            seconds.append(found.total)
            session.prove()
        digest = session.digest()
        notes = session.notes
    pathlib.Path(f"{arguments.store}.{rank}").write_text(
        json.dumps({"prepare": prepared, "seconds": seconds[arguments.warmup :], "digest": digest, "notes": notes, "torch": torch.__version__})
    )


def module_row(arguments, ranks, work):
    store = str(work / "store")
    words = [sys.executable, __file__, arguments.model, "--store", store]
    for name in ("train", "gen", "device", "executor", "steps", "warmup", "timeout"):
        words += [f"--{name}", str(getattr(arguments, name))]
    processes = [subprocess.Popen([*words, "--rank", str(rank)]) for rank in range(ranks)]
    if any([process.wait() for process in processes]):
        sys.exit("a rank failed")
    found = [json.loads(pathlib.Path(f"{store}.{rank}").read_text()) for rank in range(ranks)]
    samples = [max(one) for one in zip(*(rank["seconds"] for rank in found))]
    return {"by": "python module", "prepare_seconds": max(rank["prepare"] for rank in found), **summary(samples), "notes": found[0]["notes"],
            "torch": found[0]["torch"], "proved": len(samples) + arguments.warmup}  # fmt: skip


def summary(samples):
    return {"samples": samples, "median": statistics.median(samples), "min": min(samples)}


def executable_row(arguments, ranks, work):
    train, gen = arguments.train.split(), arguments.gen.split()
    out = work / "result.json"
    words = [*shlex.split(arguments.mpirun), "-np", str(ranks), arguments.executable, "run", "--model", arguments.model, "--train", train[1],
             "--gen", gen[1], "--device", arguments.device, "--steps", str(arguments.steps), "--json", str(out), "--force"]  # fmt: skip
    if arguments.executor != "auto":
        words += ["--executor", arguments.executor]
    ended = subprocess.run(words, capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(f"{shlex.join(words)}\n{ended.stdout}{ended.stderr}")
    result = json.loads(out.read_text())
    return {"by": "executable", "command": shlex.join(words), **summary(result["weight_sync"]["samples"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder with config.json")
    parser.add_argument("--train", default="megatron TP1")
    parser.add_argument("--gen", default="vllm TP1")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--executor", default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--executable", help="of refit, for a row of its own")
    parser.add_argument("--mpirun", default="mpirun --oversubscribe" + (" --allow-run-as-root" if os.geteuid() == 0 else ""))
    parser.add_argument("--json", help="file for both rows")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        return rank_main(arguments)

    import refit

    plan = refit.Plan(arguments.model, train=arguments.train, gen=arguments.gen)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        rows = [module_row(arguments, plan.ranks, work)]
        if arguments.executable:
            rows.append(executable_row(arguments, plan.ranks, work))
    print(f"{arguments.train} -> {arguments.gen}, {plan.sizes['payload_bytes'] / 1e9:.2f} GB, {plan.ranks} processes, {arguments.device}")
    for row in rows:
        print(f"{row['by']:14}  median {row['median'] * 1e3:9.3f} ms  min {row['min'] * 1e3:9.3f} ms  of {len(row['samples'])}")
    for note in rows[0]["notes"]:
        print(f"  {note}")
    if len(rows) == 2:
        print(f"ratio           median {rows[0]['median'] / rows[1]['median']:.3f}      min {rows[0]['min'] / rows[1]['min']:.3f}")
    if arguments.json:
        command = shlex.join(["scripts/embed_bench.py", *sys.argv[1:]])
        pathlib.Path(arguments.json).write_text(json.dumps({"command": command, "rows": rows, "plan": plan.sizes}, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
