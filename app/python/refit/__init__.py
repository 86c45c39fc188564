"""Moves model weights from a trainer's processes to inference engines' processes, in place, and proves every element.

    import refit

    plan = refit.Plan("/data/Qwen3-8B", train="megatron TP2xPP2", gen="vllm TP4")
    control = refit.from_store(store, rank, plan.ranks)
    with refit.Session(plan, control, gen=dict(model.named_parameters())) as session:
        session.refit()
        session.prove()

Every process that holds weights does this, with its own rank and tensors: train ranks come first and gen ranks follow.
Neither torch nor numpy, MPI or a GPU is needed to import it.
"""

import importlib
from types import ModuleType

try:
    from refit import _refit as _refit
except ImportError as error:
    if "libcudart" not in str(error) and "libnccl" not in str(error):
        raise
    from refit import _cuda_libraries

    _cuda_libraries.load()
    from refit import _refit as _refit

from refit._refit import __version__, shared_memory
from refit.control import Control, from_mpi, from_store, from_torch
from refit.errors import DataError, Error, RuntimeFailure, UnavailableError, UsageError
from refit.plan import Plan, Storage
from refit.result import read_result
from refit.session import Proof, Seconds, Session, Version, Wrong

__all__ = [
    "Control",
    "DataError",
    "Error",
    "Plan",
    "Proof",
    "RuntimeFailure",
    "Seconds",
    "Session",
    "Storage",
    "UnavailableError",
    "UsageError",
    "Version",
    "Wrong",
    "__version__",
    "from_mpi",
    "from_store",
    "from_torch",
    "read_result",
    "shared_memory",
]


def __getattr__(name: str) -> ModuleType:
    """Imports the sides of trainers when they are used."""
    if name in ("fsdp", "megatron"):
        return importlib.import_module(f"refit.{name}")
    raise AttributeError(f"module 'refit' has no attribute {name!r}")
