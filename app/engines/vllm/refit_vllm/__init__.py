"""Refits the weights of a running vLLM from a trainer's, in place, and proves them.

Two ways in, both for vLLM 0.33:

  LLM(..., weight_transfer_config={"backend": "refit"})                   a WeightTransferEngine, by vLLM's own verbs
  LLM(..., worker_extension_cls="refit_vllm.worker.RefitWorker")          refit_* methods for collective_rpc

Both hold a `Refitter` in every worker. Whoever owns the model's processes himself takes `side` or `Weights` and a `refit.Session`.
"""

from refit_vllm.refitter import Connection, Refitter
from refit_vllm.weights import Weights, side

__all__ = ["Connection", "Refitter", "Weights", "register", "side"]


def register() -> None:
    """Registers the engine "refit" with vLLM. vLLM calls it in each of its processes (entry point vllm.general_plugins), in some twice."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    # The registry refuses a second registration and has no public question.
    if "refit" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("refit", "refit_vllm.engine", "RefitWeightTransferEngine")
