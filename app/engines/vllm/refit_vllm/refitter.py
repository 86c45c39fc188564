"""What a vLLM worker needs to take part in refits: the plan, the connection to the other processes, its weights."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import refit
import torch

from refit_vllm.weights import Weights

if TYPE_CHECKING:
    from refit import Plan
    from vllm.config import VllmConfig


@dataclass(kw_only=True)
class Connection:
    """How an engine's workers find the trainer; equal on all of them, and plain values, so that vLLM's control plane can carry it.

    store     "HOST:PORT" of a torch.distributed.TCPStore that the trainer hosts
    train     the trainer's side, "megatron TP2xPP2": the first half of what refit.megatron.side or refit.fsdp.side returns there
    gen       sides of all engines, in order of their ranks; empty: this engine is the only one
    engine    which of them this engine is
    config    config.json of the model or its folder; "": that which vLLM loaded
    policy, executor   as of refit.Plan and refit.Session
    timeout   seconds that a process may keep the others waiting
    prefix    of the store's keys, another one for every world that meets in the same store
    """

    store: str
    train: str
    gen: list[str] = field(default_factory=list)
    engine: int = 0
    config: str = ""
    policy: str = "all"
    executor: str = "auto"
    timeout: float = 60
    prefix: str = "refit"


class Refitter:
    """A worker's part in the refits of one world. Everything but `close` is collective over all train and gen ranks, like the methods of
    refit.Session with the same names."""

    def __init__(self, model: torch.nn.Module, vllm_config: VllmConfig, connection: Connection) -> None:
        """Errors: usage, listed on every worker of the engine: what of the model cannot be refitted, weights that differ from the plan's;
        runtime: the store or a peer that does not answer. The other ranks then wait for `timeout`."""
        self._vllm_config = vllm_config
        self._sleeps = vllm_config.model_config.enable_sleep_mode
        failure: refit.Error | None = None
        try:
            self.weights = Weights(model, vllm_config)
            plan, rank = self._make_plan(connection)
            self.weights.fit(plan, rank - plan.train_ranks)
        except refit.Error as error:
            failure = error
        _agree(failure)
        executor = connection.executor
        if self._sleeps and executor == "auto":
            # Sleep frees physical memory and wake_up maps other memory to the same addresses: what a peer has mapped would be the old one.
            executor = "p2p"
            self.weights.notes.append("executor p2p, since sleep mode exchanges the memory behind the same addresses")
        try:
            store = _connect(connection)
            self._control = refit.from_store(store, rank, plan.ranks, prefix=connection.prefix, timeout=connection.timeout)
            self._session = refit.Session(plan, self._control, gen=self.weights.tensors, executor=executor, timeout=connection.timeout)
        except torch.distributed.DistError as error:
            raise refit.RuntimeFailure(
                f"the other processes of this refit have not come to the store at {connection.store} within {connection.timeout:g} s "
                f"(prefix {connection.prefix}): {str(error).splitlines()[0]}"
            ) from error

    @property
    def notes(self) -> list[str]:
        return [*self._session.notes, *self.weights.notes]

    def refit(self) -> dict[str, float]:
        """Brings the trainer's weights and lets vLLM process them. Returns seconds: refit's total, and post_load of this worker. No request
        may run meanwhile; the caller discards vLLM's prefix cache, whose entries are of older weights."""
        if self._sleeps and _weights_sleep():
            raise refit.UsageError('the weights of this worker sleep; call wake_up(tags=["weights"]) before a refit')
        seconds = self._session.refit()
        start = time.perf_counter()
        self.weights.finish()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return {"total": seconds.total, "post_load": time.perf_counter() - start}

    def prove(self) -> dict[str, Any]:
        """Compares what refit brought with what the trainer has. Errors: refit.DataError. Of staged layers it is the loaded form that is
        compared; what vLLM makes of it is vLLM's own."""
        proof = self._session.prove()
        return {"tensors": proof.tensors, "elements": proof.elements, "elements_wrong": proof.elements_wrong, "digest": proof.gen_digest}

    def digest(self) -> str:
        return self._session.digest()

    def close(self) -> None:
        self._session.close()
        self._control.close()

    def _make_plan(self, connection: Connection) -> tuple[Plan, int]:
        """Returns the plan and this worker's world rank."""
        config = connection.config or _config_of(self._vllm_config.model_config.model)
        gen = connection.gen or [self.weights.spec]
        if not 0 <= connection.engine < len(gen):
            raise refit.UsageError(f"engine = {connection.engine}, but gen lists {len(gen)} engines")
        if gen[connection.engine] != self.weights.spec:
            raise refit.UsageError(f'gen[{connection.engine}] = "{gen[connection.engine]}", but this engine is "{self.weights.spec}"')
        plan = refit.Plan(config, train=connection.train, gen=gen, policy=connection.policy)
        before = sum(refit.Plan(config, train=connection.train, gen=other).gen_ranks for other in gen[: connection.engine])
        parallel = self._vllm_config.parallel_config
        # vLLM counts workers of all its data-parallel replicas like this (gpu_worker.py, update_weights).
        return plan, plan.train_ranks + before + parallel.data_parallel_index * parallel.world_size + parallel.rank


def _connect(connection: Connection) -> torch.distributed.Store:
    host, _, port = connection.store.rpartition(":")
    if not host or not port.isdigit():
        raise refit.UsageError(f'store = "{connection.store}" is not HOST:PORT')
    return torch.distributed.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=connection.timeout))


def _agree(failure: refit.Error | None) -> None:
    """Collective over the engine's workers: raises on all of them the first one's failure, if any has one."""
    from vllm.distributed.parallel_state import get_world_group

    group = get_world_group()
    texts: list[str | None] = [None] * group.world_size
    torch.distributed.all_gather_object(texts, None if failure is None else str(failure), group=group.cpu_group)
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text is not None:
            raise refit.UsageError(f"worker {rank} of this engine: {text}")


def _weights_sleep() -> bool:
    from vllm.device_allocator import get_mem_allocator_instance

    allocations: dict[int, Any] = getattr(get_mem_allocator_instance(), "pointer_to_data", {})
    return any(data.is_asleep and data.tag == "weights" for data in allocations.values())


def _config_of(model: str) -> str:
    """The folder of a model, or config.json of a model that vLLM has downloaded by its id."""
    if os.path.exists(model):
        return model
    from transformers.utils import cached_file

    return str(cached_file(model, "config.json"))
