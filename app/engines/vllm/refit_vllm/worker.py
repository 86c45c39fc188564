"""A worker extension: LLM(..., worker_extension_cls="refit_vllm.worker.RefitWorker"), then llm.collective_rpc("refit_update")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import refit

from refit_vllm.refitter import Connection, Refitter
from refit_vllm.weights import Weights

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig


class RefitWorker:
    """Methods that vLLM adds to its workers. All but refit_side and refit_notes are collective over all train and gen ranks."""

    if TYPE_CHECKING:
        vllm_config: VllmConfig

        def get_model(self) -> torch.nn.Module: ...

    _refitter: Refitter | None = None

    def refit_side(self) -> str:
        """Returns the side that this engine is, "vllm TP2", for Connection.gen and the trainer's plan."""
        return Weights(self.get_model(), self.vllm_config).spec

    def refit_init(self, **connection: Any) -> list[str]:
        """Connects; the arguments are the fields of Connection. Returns notes."""
        if self._refitter is not None:
            raise refit.UsageError("this worker is connected already; call refit_close first")
        self._refitter = Refitter(self.get_model(), self.vllm_config, Connection(**connection))
        return self._refitter.notes

    def refit_update(self) -> dict[str, float]:
        """Brings the trainer's weights. Returns seconds."""
        return self._connected().refit()

    def refit_prove(self) -> dict[str, Any]:
        """Compares every element with the trainer's. Errors: refit.DataError."""
        return self._connected().prove()

    def refit_digest(self) -> str:
        """Returns the fingerprint of the weights."""
        return self._connected().digest()

    def refit_notes(self) -> list[str]:
        """Returns what a reader should know: the executor that was chosen and why, copies, what is left alone, memory that moved. Not
        collective."""
        return self._connected().notes

    def refit_close(self) -> None:
        if self._refitter is not None:
            self._refitter.close()
            self._refitter = None

    def destroy_worker_extension(self) -> None:
        """Called by vLLM when the worker ends."""
        self.refit_close()

    def _connected(self) -> Refitter:
        if self._refitter is None:
            raise refit.UsageError("refit_init has not been called")
        return self._refitter
