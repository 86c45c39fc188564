"""What the sides of live models have in common. Nothing here imports torch: it looks at the one that the caller has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refit.errors import UsageError
from refit.plan import Plan

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
_PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def as_list(model: Any) -> list[Any]:
    return list(model) if isinstance(model, (list, tuple)) else [model]


def dtype_name(tensor: Any) -> str | None:
    """A weight's dtype as safetensors files name it; None of other tensors than floating point's."""
    return _DTYPES.get(str(tensor.dtype).rpartition(".")[2])


def elements(tensor: Any) -> int:
    count = 1
    for extent in tensor.shape:
        count *= int(extent)
    return count


def weights(module: Any) -> dict[str, Any]:
    """The parameters of a torch module, each once, and its persistent buffers of floating point, under their own names."""
    found = dict(module.named_parameters())
    for path, part in module.named_modules():
        transient = part._non_persistent_buffers_set
        for name, buffer in part.named_buffers(recurse=False):
            if name not in transient and dtype_name(buffer) is not None:
                found[f"{path}.{name}" if path else name] = buffer
    return found


def precision(tensors: Mapping[str, Any]) -> str | None:
    """train.precision: that of most elements; None for bf16, its default."""
    counts: dict[str | None, int] = {}
    for tensor in tensors.values():
        name = dtype_name(tensor)
        counts[name] = counts.get(name, 0) + elements(tensor)
    most = max(counts, key=lambda name: counts[name], default=None)
    if most not in _PRECISIONS:
        raise UsageError(f"most weights are {most or 'in no dtype that is known here'}; a train side is bf16, fp16 or fp32")
    return _PRECISIONS[most] if most != "BF16" else None


def rank_of_trainer() -> tuple[int, int]:
    """(rank, ranks) of the caller's torch.distributed; (0, 1) where it is not initialised."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def spec(trainer: str, sizes: Mapping[str, int], keys: Mapping[str, Any]) -> str:
    """A side as refit.Plan takes it: "megatron TP2xPP2 virtual_stages=2 precision=bf16". Keys whose value is None are left
    out."""
    axes = "x".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1)
    words = [f"{key}={_text(value)}" for key, value in keys.items() if value is not None]
    return " ".join([trainer, axes or f"{next(iter(sizes))}1", *words])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(item) for item in value)
    return str(value)


def require(plan: Plan, rank: int, tensors: Mapping[str, Any], describe: Callable[[str], str] = lambda name: "") -> None:
    """Raises UsageError with every storage of a train rank that is missing, or of another shape or dtype than the plan's.

    describe: what else is known of a tensor, such as a DTensor's placements; behind its shape.
    """
    storages = plan.storages("train", rank)
    problems: list[tuple[str, str]] = []
    for storage in storages:
        tensor = tensors.get(storage.name)
        if tensor is None:
            problems.append((storage.name, "is missing"))
        elif tuple(tensor.shape) != tuple(storage.shape):
            shape, wanted = list(tensor.shape), list(storage.shape)
            problems.append((storage.name, f"is {shape}{describe(storage.name)}, the plan has {wanted}"))
        elif dtype_name(tensor) != storage.dtype:
            problems.append((storage.name, f"is {tensor.dtype}, the plan has {storage.dtype}"))
    if not problems:
        return
    text = f"train rank {rank} has {len(problems)} tensors that differ from the plan {plan!r}:"
    text += "".join(f"\n  {name} {problem}" for name, problem in problems)
    known = {storage.name for storage in storages}
    unknown = [name for name in tensors if name not in known]
    if unknown:
        text += "\n  and tensors that the plan does not have: " + ", ".join(unknown)
    raise UsageError(text, tensor=problems[0][0], rank=rank)
