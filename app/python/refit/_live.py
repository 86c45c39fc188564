"""What the sides of live models have in common. Nothing here imports torch: it looks at the one that the caller has."""

import sys

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3",
           "float8_e5m2": "F8_E5M2"}  # fmt: skip
_PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def usage_error(text, tensor=None, rank=None):
    """Makes a refit.UsageError, which is defined where this module is imported from."""
    import refit

    error = refit.UsageError(text)
    error.tensor, error.rank = tensor, rank
    return error


def as_list(model):
    return list(model) if isinstance(model, (list, tuple)) else [model]


def dtype_name(tensor):
    """Returns a dtype of floating point as safetensors files name it, None for others."""
    return _DTYPES.get(str(tensor.dtype).rpartition(".")[2])


def precision(tensors):
    """Returns the precision that most elements have."""
    elements = {}
    for tensor in tensors.values():
        name = dtype_name(tensor)
        count = 1
        for extent in tensor.shape:
            count *= int(extent)
        elements[name] = elements.get(name, 0) + count
    most = max(elements, key=elements.get, default=None)
    if most not in _PRECISIONS:
        raise usage_error(f"most weights are {most}; a train side is bf16, fp16 or fp32")
    return _PRECISIONS[most]


def rank_of_trainer():
    """Returns (rank, ranks) of the caller's torch.distributed, (0, 1) where it is not initialised."""
    torch = sys.modules.get("torch")
    distributed = torch.distributed if torch is not None else None
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def spec(trainer, sizes, keys):
    """Returns a side as refit.Plan takes it: "megatron TP2xPP2 virtual_stages=2 precision=bf16"."""
    axes = "x".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1)
    words = [f"{key}={_value(value)}" for key, value in keys.items() if value is not None]
    return " ".join([trainer, axes or next(iter(sizes)) + "1", *words])


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value) + "]"
    return str(value)


def complain(plan, side, rank, tensors, describe=lambda name: ""):
    """Raises refit.UsageError with every storage of `rank` that is missing, or of another shape or dtype.

    `describe` says what else is known of a tensor, such as a DTensor's placements.
    """
    problems = []
    for storage in plan.storages(side, rank):
        tensor = tensors.get(storage.name)
        if tensor is None:
            problems.append((storage.name, "is missing"))
            continue
        shape, wanted = tuple(int(extent) for extent in tensor.shape), tuple(storage.shape)
        if shape != wanted:
            problems.append((storage.name, f"is {list(shape)}, the plan has {list(wanted)}{describe(storage.name)}"))
        elif dtype_name(tensor) != storage.dtype:
            problems.append((storage.name, f"is {tensor.dtype}, the plan has {storage.dtype}"))
    if not problems:
        return
    lines = "".join(f"\n  {name} {text}" for name, text in problems)
    unused = [name for name in tensors if name not in {storage.name for storage in plan.storages(side, rank)}]
    if unused and any(text == "is missing" for _, text in problems):
        lines += "\n  tensors that the plan does not have: " + ", ".join(unused[:8]) + (" ..." if len(unused) > 8 else "")
    raise usage_error(f"{side} rank {rank} differs from the plan in {len(problems)} tensors:{lines}", problems[0][0], rank)
