"""The weight transfer engine "refit": vLLM's own verbs for updates of weights, carried out by refit.

A trainer's controller calls, of LLM, AsyncLLM or the HTTP routes, init_weight_transfer_engine once with the fields of Connection as
init_info, and per training step start_weight_update, update_weights with an empty update_info, finish_weight_update; while update_weights
runs, every train rank must be in its session's refit()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import refit
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo

from refit_vllm.refitter import Connection, Refitter


@dataclass(kw_only=True)
class RefitInitInfo(Connection, WeightTransferInitInfo):
    """See Connection."""


@dataclass(kw_only=True)
class RefitUpdateInfo(WeightTransferUpdateInfo):
    """prove: compares every element after the refit, which the train ranks must do too (session.prove())."""

    prove: bool = False


class RefitWeightTransferEngine(WeightTransferEngine[RefitInitInfo, RefitUpdateInfo]):
    """One worker's engine. Refits whole models in one call; a drafter is not updated."""

    init_info_cls = RefitInitInfo
    update_info_cls = RefitUpdateInfo
    supports_draft_weight_update = False

    _refitter: Refitter | None = None

    def init_transfer_engine(self, init_info: RefitInitInfo) -> None:
        """Collective over all train and gen ranks."""
        if self._refitter is not None:
            raise refit.UsageError("the engine is connected already; call shutdown_weight_transfer_engine first")
        self._refitter = Refitter(self.model, self.vllm_config, init_info)

    def start_weight_update(self) -> None:
        """Nothing to prepare: parameters are written where they are."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Collective over all train and gen ranks."""
        # The base class synchronises the device afterwards, which a CPU has not; Refitter.refit does.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: RefitUpdateInfo) -> None:
        """Collective over all train and gen ranks."""
        if self._refitter is None:
            raise refit.UsageError("update_weights before init_weight_transfer_engine")
        self._refitter.refit()
        if update_info.prove:
            self._refitter.prove()

    def finish_weight_update(self) -> None:
        """Nothing is left to do: update_weights has processed the weights."""

    def shutdown(self) -> None:
        if self._refitter is not None:
            self._refitter.close()
            self._refitter = None
