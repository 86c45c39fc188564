"""Finds CUDA's and NCCL's libraries where PyPI's packages of them lie, which torch brings, for a module that is built for
CUDA; the system's are found without it."""

import ctypes
import importlib.util
from pathlib import Path

_PATTERNS = ("cuda_runtime/lib/libcudart.so.*", "cu*/lib/libcudart.so.*", "nccl/lib/libnccl.so.*")


def load() -> None:
    """Loads those that there are, so that the loader finds them by name."""
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or []) if packages else []:
        for pattern in _PATTERNS:
            for path in Path(folder).glob(pattern):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
