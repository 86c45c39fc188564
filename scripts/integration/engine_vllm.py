#!/usr/bin/env python3
"""The engine's half of the integration test: real vLLM, refitted by a trainer in other processes. README.md has the protocol.

Every step: wait for the trainer's export, refit, prove, compare every parameter bit for bit with what vLLM's own loader makes of the
export, compare logits. Engines:

  processes  vLLM's model, loader and post-load steps in one process per rank; transformers judges the logits of the weights that they hold
  llm        vLLM's own engine: LLM, its workers with refit's extension, its forward pass; needs vLLM's kernels for CPUs
  transfer   the same, refitted by vLLM's verbs for updates of weights, with the registered engine "refit"
  auto       llm where it can run, else processes
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Before torch and vLLM are imported, here and in all processes that are started from here.
os.environ.update(
    VLLM_TARGET_DEVICE="cpu",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    TOKENIZERS_PARALLELISM="false",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_PLUGINS="refit",
    OMP_NUM_THREADS="1",
)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])])

import torch
import vllm_judge
from vllm_worker import engine_arguments

WAIT_SECONDS = 600
MEAN_KL_LIMIT = 1e-3


class Processes:
    """An engine of processes of its own, one for each tensor-parallel rank."""

    def __init__(self, arguments: dict[str, Any], ranks: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, ranks, port, arguments), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        self._answers()

    def rpc(self, method: str, *arguments: Any, **named: Any) -> list[Any]:
        """Calls a method of all workers at once. Returns their answers. Errors: the first worker's."""
        for pipe in self._pipes:
            pipe.send((method, arguments, named))
        return self._answers()

    def connect(self, **connection: Any) -> None:
        self.rpc("refit_init", **connection)

    def refit(self) -> None:
        """Brings the weights and proves them. Collective with the trainer."""
        self.rpc("refit_update")
        self.rpc("refit_prove")

    def disconnect(self) -> None:
        self.rpc("refit_close")

    def logprobs(self, folder: str) -> torch.Tensor:
        return vllm_judge.held_logprobs(folder, self.rpc("check_tensors"))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)
            process.kill()

    def _answers(self) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            try:
                answers.append(pipe.recv())
            except EOFError:
                raise RuntimeError(f"engine process {rank} died") from None
        for rank, (failed, value) in enumerate(answers):
            if failed:
                raise RuntimeError(f"engine process {rank}: {value}")
        return [value for _, value in answers]


def _serve(pipe: Connection, rank: int, ranks: int, port: int, arguments: dict[str, Any]) -> None:
    """Answers calls until None comes."""
    worker: Any = None

    def answer(call: Callable[[], Any]) -> None:
        try:
            pipe.send((False, call()))
        except Exception:  # goes to the caller
            pipe.send((True, traceback.format_exc()))

    def start() -> None:
        nonlocal worker
        from vllm_worker import Process

        worker = Process(rank, ranks, port, arguments)

    answer(start)
    with contextlib.suppress(EOFError):  # whoever asks has ended
        while (message := pipe.recv()) is not None:
            method, positional, named = message
            answer(partial(getattr(worker, method), *positional, **named))


class Llm:
    """vLLM's own engine, with refit's worker extension."""

    def __init__(self, arguments: dict[str, Any], transfer: bool) -> None:
        """`transfer`: refits by vLLM's own verbs for updates of weights, not by refit's worker extension."""
        from vllm import LLM

        self._transfer = transfer
        self._llm = LLM(
            **arguments,
            worker_extension_cls="vllm_worker.CheckedWorker",
            weight_transfer_config={"backend": "refit"} if transfer else None,
            max_logprobs=-1,
            enable_prefix_caching=False,
        )

    def rpc(self, method: str, *arguments: Any, **named: Any) -> list[Any]:
        return self._llm.collective_rpc(method, args=arguments, kwargs=named)

    def connect(self, **connection: Any) -> None:
        if self._transfer:
            self._llm.init_weight_transfer_engine({"init_info": connection})
        else:
            self.rpc("refit_init", **connection)

    def refit(self) -> None:
        if self._transfer:
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {"prove": True}})
            self._llm.finish_weight_update()
        else:
            self.rpc("refit_update")
            self.rpc("refit_prove")

    def disconnect(self) -> None:
        self.rpc("shutdown_weight_transfer_engine" if self._transfer else "refit_close")

    def logprobs(self, folder: str) -> torch.Tensor:
        """Returns what vLLM's own forward pass says. The first token has no prediction before it, so that the last one's is asked for with
        one token more."""
        from vllm import SamplingParams

        vocabulary = json.loads(Path(folder, "config.json").read_text())["vocab_size"]
        sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=vocabulary, logprobs=0, detokenize=False)
        asked = [{"prompt_token_ids": [*tokens, 0]} for tokens in vllm_judge.prompts(vocabulary)]
        rows = []
        for answer in self._llm.generate(asked, sampling, use_tqdm=False):
            rows.append([[place[token].logprob for token in range(vocabulary)] for place in answer.prompt_logprobs[1:]])
        return torch.tensor(rows)

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


class Store:
    """The keys of README.md."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._store = torch.distributed.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=WAIT_SECONDS))

    def get(self, key: str) -> str:
        """Waits for a key. Errors: the other side's failure, or that it does not come."""
        end = time.monotonic() + WAIT_SECONDS
        while not self._store.check([f"integration/{key}"]):
            if self._store.check(["integration/failed"]):
                raise RuntimeError(f"the other side has failed: {self._store.get('integration/failed').decode()}")
            if time.monotonic() > end:
                raise TimeoutError(f"nobody has set integration/{key} within {WAIT_SECONDS} s")
            time.sleep(0.05)
        return self._store.get(f"integration/{key}").decode()

    def set(self, key: str, value: str) -> None:
        self._store.set(f"integration/{key}", value)


def has_cpu_kernels() -> bool:
    """Returns whether this vLLM has its kernels for CPUs, which the wheel for CUDA comes without."""
    spec = importlib.util.find_spec("vllm")
    return spec is not None and any(Path(place).glob("_C.*so") for place in spec.submodule_search_locations or ())


def step(engine: Any, work: Path, k: int, addresses: list[list[int]]) -> dict[str, Any]:
    """Refits step k, once it is exported, and judges the result. Collective with the trainer until the digest. Returns what was found; "ok"
    says whether it is what it must be."""
    folder = str(work / f"step{k}")
    before = engine.rpc("check_compare", folder)
    found: dict[str, Any] = {"step": k, "elements_other_before": sum(rank["elements_wrong"] for rank in before)}
    start = time.perf_counter()
    engine.refit()
    found["seconds"] = time.perf_counter() - start
    found["digest"] = engine.rpc("refit_digest")[0]
    found["ranks"] = engine.rpc("check_compare", folder)
    problems = [
        f"rank {g}: {rank['elements_wrong']} elements differ, first {rank['first_wrong']}"
        for g, rank in enumerate(found["ranks"])
        if rank["elements_wrong"] or rank["tensors_wrong"]
    ]
    found["outputs"] = engine.rpc("check_outputs", folder)
    problems += [f"rank {g}: outputs of {rank['first_wrong']} differ" for g, rank in enumerate(found["outputs"]) if rank["layers_wrong"]]
    if engine.rpc("check_addresses") != addresses:
        problems.append("a parameter has moved")
    if found["elements_other_before"] == 0:
        problems.append("nothing differed before the refit, so that nothing is shown")
    exported = vllm_judge.exported_logprobs(folder)
    mean, largest = vllm_judge.divergence(exported, engine.logprobs(folder))
    found["kl_mean"], found["kl_max"] = mean, largest
    found["kl_mean_of_step_before"], _ = vllm_judge.divergence(exported, vllm_judge.exported_logprobs(str(work / f"step{k - 1}")))
    if not mean < MEAN_KL_LIMIT:
        problems.append(f"mean KL per token {mean:.3g}, limit {MEAN_KL_LIMIT}")
    found["ok"], found["problems"] = not problems, problems
    return found


def run(arguments: argparse.Namespace, store: Store, result: dict[str, Any]) -> bool:
    """Carries out the protocol. Returns whether all of it held."""
    work = Path(arguments.work)
    train = json.loads(store.get("train"))
    options = engine_arguments(str(work / "step0"), arguments.tp, arguments.expert_parallel)
    engine: Any = Processes(options, arguments.tp) if arguments.engine == "processes" else Llm(options, arguments.engine == "transfer")
    try:
        specs = engine.rpc("refit_side")
        result["train"], result["gen"] = train["spec"], specs[0]
        print(f"{train['spec']} -> {specs[0]}", flush=True)
        store.set("gen", json.dumps({"spec": specs[0], "ranks": len(specs)}))
        engine.connect(store=arguments.store, train=train["spec"], timeout=arguments.timeout)
        addresses = engine.rpc("check_addresses")
        for k in range(1, arguments.steps + 1):
            store.get(f"exported/{k}")
            found = step(engine, work, k, addresses)
            result["steps"].append(found)
            totals = {key: sum(rank[key] for rank in found["ranks"]) for key in ("tensors", "elements", "elements_wrong")}
            print(
                f"step {k}: {totals['tensors']} tensors, {totals['elements']} elements compared on {len(specs)} ranks, "
                f"{totals['elements_wrong']} wrong ({found['elements_other_before']} before the refit); "
                f"KL mean {found['kl_mean']:.3g} max {found['kl_max']:.3g} (step {k - 1}: {found['kl_mean_of_step_before']:.3g}); "
                f"digest {found['digest']}; {found['seconds']:.3f} s with proof" + "".join(f"\n  {text}" for text in found["problems"]),
                flush=True,
            )
            text = "; ".join(found["problems"]) or "all as vLLM's loader has it"
            for g in range(len(specs)):
                store.set(f"checked/{k}/{g}", json.dumps({"ok": found["ok"], "text": text}))
        result["notes"] = engine.rpc("refit_notes")[0]
        for note in result["notes"]:
            print(f"note: {note}", flush=True)
        engine.disconnect()
        for g in range(len(specs)):
            store.set(f"end/{g}", "ok")
    finally:
        engine.close()
    return all(found["ok"] for found in result["steps"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder of step0 ... stepK")
    parser.add_argument("--store", required=True, metavar="HOST:PORT", help="the trainer's TCPStore")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--expert-parallel", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that a rank may keep the others waiting in a refit")
    parser.add_argument("--engine", choices=("auto", "processes", "llm", "transfer"), default="auto")
    parser.add_argument("--json", help="file for what was found")
    arguments = parser.parse_args()
    if arguments.engine == "auto":
        # With expert parallelism a worker of vLLM 0.33 dies in the CPU's kernel, refitted or not.
        arguments.engine = "llm" if has_cpu_kernels() and not arguments.expert_parallel else "processes"
    import refit
    import transformers
    import vllm

    versions = {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "refit": refit.__version__}
    result: dict[str, Any] = {
        "engine": arguments.engine,
        "versions": versions,
        "steps": [],
    }
    print(f"vLLM {vllm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, {result['engine']}", flush=True)
    status = 3
    store = Store(arguments.store)
    try:
        status = 0 if run(arguments, store, result) else 1
    except Exception as error:  # the other side must not wait for a rank that is gone
        traceback.print_exc()
        result["error"] = str(error)
        with contextlib.suppress(torch.distributed.DistError):  # whoever hosts the store has ended
            store.set("failed", f"engine: {str(error).strip().splitlines()[-1]}")
    result["ok"] = status == 0
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    print("OK" if status == 0 else f"FAILED ({status})", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
