"""What the two trainers have in common: the protocol of README.md, from the trainer's side."""

import argparse
import datetime
import json
import os
import time
import traceback

LIMIT = 600  # seconds that a key of the store may take


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="the folder WORK of README.md; WORK/step0 is there")
    parser.add_argument("--store", required=True, help="HOST:PORT of the TCPStore, which train rank 0 hosts")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="large enough to move bfloat16 norms")
    parser.add_argument("--timeout", type=float, default=60, help="of one step of a refit, in seconds (default: 60)")
    parser.add_argument("--json", help="where train rank 0 writes what it found")
    return parser


class Failed(Exception):
    """Another process has given up."""


class Exchange:
    """The store that joins trainer and engine."""

    def __init__(self, where, rank):
        import torch.distributed

        host, port = where.rsplit(":", 1)
        limit = datetime.timedelta(seconds=LIMIT)
        self.store = torch.distributed.TCPStore(host, int(port), is_master=rank == 0, wait_for_workers=False, timeout=limit)
        self.rank = rank

    def set(self, key, value):
        self.store.set("integration/" + key, value if isinstance(value, str) else json.dumps(value))

    def get(self, key):
        """Waits for a key, or for somebody's failure."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.store.check(["integration/failed"]):
                raise Failed(self.store.get("integration/failed").decode())
            if self.store.check(["integration/" + key]):
                return self.store.get("integration/" + key).decode()
            time.sleep(0.05)
        raise TimeoutError(f"train rank {self.rank} waited {LIMIT} s for integration/{key}")

    def fail(self, text):
        if not self.store.check(["integration/failed"]):
            self.set("failed", f"train rank {self.rank}: {text}")


def batch(number, rank, sequences, length, vocabulary):
    """Returns tokens [sequences, length + 1], other ones for every data-parallel rank: sequences that count up by a stride of
    their own. They are the same in all steps, so that the loss falls."""
    import torch

    seed = torch.Generator().manual_seed(1000 * number + rank)
    start = torch.randint(vocabulary, (sequences, 1), generator=seed)
    stride = torch.randint(1, 8, (sequences, 1), generator=seed)
    return (start + stride * torch.arange(length + 1)) % vocabulary


def prompts(vocabulary):
    """The tokens of which logits are compared: those of the engine's half (vllm_judge.py)."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, vocabulary, (4, 64), generator=generator)


def run(options, make):
    """Optimiser steps with a refit after each.

    `make(options)` returns the trainer, which has: spec, tensors() of this rank, check(plan), step(k) -> loss, export(folder),
    logits(prompts) -> on one rank [prompts, tokens, vocabulary] by the trainer's own forward, else None; vocabulary, versions. Returns 0, or 1
    where anything went wrong.
    """
    from torch import distributed

    rank = distributed.get_rank()
    exchange = Exchange(options.store, rank)
    try:
        result = _steps(options, make(options), exchange, rank, distributed)
    except Failed as failure:
        print(f"train rank {rank}: ends, {failure}", flush=True)
        return 1
    except Exception as error:  # whatever it is, the others must hear of it
        traceback.print_exc()
        exchange.fail(f"{type(error).__name__}: {error}")
        time.sleep(2)  # the store is rank 0's: time for the others to read it
        return 1
    if rank == 0 and options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


def _steps(options, trainer, exchange, rank, distributed):
    import refit
    from safetensors.torch import save_file

    ranks = distributed.get_world_size()
    if rank == 0:
        exchange.set("train", {"spec": trainer.spec, "ranks": ranks})
    gen = json.loads(exchange.get("gen"))
    plan = refit.Plan(os.path.join(options.work, "step0"), train=trainer.spec, gen=gen["spec"])
    trainer.check(plan)
    control = refit.from_store(exchange.store, rank, ranks + gen["ranks"], prefix="refit")
    result = {"train": trainer.spec, "gen": gen["spec"], "versions": trainer.versions, "steps": []}
    digests = set()
    with refit.Session(plan, control, train=trainer.tensors, gen=None, timeout=options.timeout) as session:
        for step in range(1, options.steps + 1):
            start = time.perf_counter()
            loss = trainer.step(step)
            trained = time.perf_counter()
            trainer.export(os.path.join(options.work, f"step{step}"))
            logits = trainer.logits(prompts(trainer.vocabulary))
            if logits is not None:
                save_file({"logits": logits.float().contiguous()}, os.path.join(options.work, f"trainer-step{step}.safetensors"))
            distributed.barrier()
            if rank == 0:
                exchange.set(f"exported/{step}", "ok")
            exported = time.perf_counter()
            seconds = session.refit()
            proof = session.prove()
            digest = session.digest()
            if digest in digests:
                raise RuntimeError(f"step {step} has the digest of an earlier one, {digest}: the weights did not change")
            digests.add(digest)
            for engine in range(gen["ranks"]):
                checked = json.loads(exchange.get(f"checked/{step}/{engine}"))
                if not checked["ok"]:
                    raise Failed(f"gen rank {engine}, step {step}: {checked['text']}")
            row = {"step": step, "loss": loss, "seconds_training": trained - start, "seconds_export": exported - trained,
                   "seconds_refit": seconds.total, "digest": digest, "tensors": proof.tensors, "elements": proof.elements,
                   "elements_wrong": proof.elements_wrong}  # fmt: skip
            result["steps"].append(row)
            if rank == 0:
                print("step {step}: loss {loss:.4f}, {seconds_training:.2f} s training, {seconds_export:.2f} s export, "
                      "{seconds_refit:.4f} s refit, {tensors} tensors, {elements} elements, {elements_wrong} wrong, "
                      "digest {digest}".format(**row), flush=True)  # fmt: skip
        result["notes"] = getattr(session, "notes", "")
    if rank == 0:
        for engine in range(gen["ranks"]):
            exchange.get(f"end/{engine}")
    distributed.barrier()
    return result
