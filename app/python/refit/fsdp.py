"""The train side of a live model of torch's FSDP2 (fully_shard), from its DTensors' own meshes and placements.

    import refit.fsdp

    spec, tensors = refit.fsdp.side(model)                   # on every train rank
    plan = refit.Plan("config.json", train=spec, gen="vllm TP4")
    refit.fsdp.check(plan, model)                            # says what does not fit, with placements
    session = refit.Session(plan, control, train=lambda: refit.fsdp.side(model)[1])

`model` is what fully_shard was applied to, or a list of a rank's pipeline stages, under Hugging Face names. Nothing is copied:
the tensors are the local shards, empty ones too.

Meshes are read by the names of their dimensions, as the frameworks of early 2026 name them: ddp, dp_replicate, replicate (HSDP); fsdp, dp, dp_shard, cp
and what is flattened of them (FSDP); tp; ep. A mesh without names has one dimension (FSDP) or two (HSDP, then FSDP).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from refit import _live
from refit.errors import UsageError
from refit.plan import Plan

_REPLICAS = ("ddp", "replicate", "dp_replicate", "hsdp", "eddp")
_WORDS_OF_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module.")
# Axis of refit, size, coordinate, placement.
_Axis = tuple[str, int, int, Any]
# The forms of train.experts, by the last word of a parameter's name.
_EXPERTS = {"gate_up_proj": "stacked", "gate_and_up_projs": "transposed", "w1": "w123"}
# Recipes whose own rule cuts another dimension of dense parameters than 0.
_CHOOSES_DIMENSION = ("roll",)


def side(
    model: Any, recipe: str = "verl", *, rank: int | None = None, ranks: int | None = None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Returns (spec, tensors): the train side of refit.Plan, equal on all ranks, and this rank's {name: local tensor}.

    recipe: the framework whose meshes, shards of experts and pipeline stages are meant (train.recipe).
    rank, ranks: of the trainer; else those of torch.distributed's default group.
    options: further keys of a case's [train] that the DTensors do not show: stage_layers, virtual_stages, pipeline_style; or
        that replace what they show, as shard_dim and experts.

    Parameters are resharded first: after a forward without a backward some are whole ones in another dtype. Not
    collective. Errors: UsageError, for meshes that are not understood, ranks in another order than refit's, parameters that
    are no DTensors although others are.
    """
    if rank is None or ranks is None:
        rank, ranks = _live.rank_of_trainer()
    found = _parameters(model)
    sharded = {name: tensor for name, tensor in found.items() if hasattr(tensor, "placements")}
    if not sharded:
        raise UsageError("no parameter is a DTensor: apply fully_shard first, and to one process, too", rank=rank)
    axes = {name: _axes(name, tensor) for name, tensor in sharded.items()}
    sizes = _sizes(axes, ranks)
    for name, tensor in sharded.items():
        _check_place(name, tensor, axes[name], sizes, rank, recipe)
    keys: dict[str, Any] = {"recipe": recipe, "experts": _experts(found)}
    if recipe not in _CHOOSES_DIMENSION and "shard_dim" not in options:
        keys["shard_dim"] = _shard_dims(axes, sharded, sizes, recipe)
    keys["precision"] = _live.precision(found)
    return _live.spec("fsdp", sizes, {**keys, **options}), {name: _local(tensor) for name, tensor in found.items()}


def check(plan: Plan, model: Any, *, rank: int | None = None) -> None:
    """Raises UsageError with every tensor of this train rank that is missing, or of another local shape or dtype than the plan's,
    each with its placements and mesh. Not collective."""
    if rank is None:
        rank = _live.rank_of_trainer()[0]
    found = _parameters(model)

    def describe(name: str) -> str:
        tensor = found[name]
        if not hasattr(tensor, "placements"):
            return ", no DTensor"
        mesh = " x ".join(f"{axis} {size}" for axis, size in zip(_names(tensor), tensor.device_mesh.shape, strict=True))
        placements = ", ".join(str(placement) for placement in tensor.placements)
        return f" of {list(tensor.shape)} as ({placements}) on the mesh {mesh}"

    _live.require(plan, rank, {name: _local(tensor) for name, tensor in found.items()}, describe)


def _parameters(model: Any) -> dict[str, Any]:
    """All stages' parameters and persistent buffers, sharded, under the checkpoint's names."""
    found: dict[str, Any] = {}
    for stage in _live.as_list(model):
        for module in stage.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        for name, tensor in _live.weights(stage).items():
            for word in _WORDS_OF_WRAPPERS:
                name = name.replace(word, "")
            found[name] = tensor
    return found


def _local(tensor: Any) -> Any:
    """The shard itself: without gradients to_local returns no view of it, but the same tensor each time."""
    if not hasattr(tensor, "to_local"):
        return tensor
    torch = sys.modules.get("torch")
    if torch is None:
        return tensor.to_local()
    with torch.no_grad():
        return tensor.to_local()


def _names(tensor: Any) -> tuple[str, ...]:
    """The names of a mesh's dimensions, also where it has none."""
    names = tensor.device_mesh.mesh_dim_names
    if names:
        return tuple(names)
    dimensions = len(tensor.device_mesh.shape)
    if dimensions > 2:
        raise UsageError(f"a mesh of {dimensions} dimensions has no names; give init_device_mesh mesh_dim_names, such as (dp_replicate, "
                         "dp_shard, tp)")  # fmt: skip
    return ("replicate", "fsdp")[-dimensions:]


def _axis(name: str) -> str:
    """The axis of refit that a dimension of a mesh belongs to."""
    word = name.lower()
    if word in ("tp", "ep", "etp"):
        return word.upper()
    if word in _REPLICAS:
        return "HSDP"
    if re.fullmatch(r"(e?fsdp|dp|cp|shard|(ep_)?shard|ep_shard|dp_shard\w*|dp_cp|dp_\w*shard\w*)", word):
        return "FSDP"
    raise UsageError(f"the mesh's dimension \"{name}\" is none that is known: {', '.join(_REPLICAS)} are replicas, fsdp, dp, cp, dp_shard "
                     "and ep_shard shards, tp and ep themselves")  # fmt: skip


def _axes(name: str, tensor: Any) -> list[_Axis]:
    """(axis, size, coordinate, placement) of each dimension of a parameter's mesh."""
    where = tensor.device_mesh.get_coordinate()
    if where is None:
        raise UsageError(f"{name} is on a mesh without this rank: give the rank's own pipeline stages only", tensor=name)
    parts = zip(_names(tensor), tensor.device_mesh.shape, where, tensor.placements, strict=True)
    return [(_axis(dimension), int(size), int(at), placement) for dimension, size, at, placement in parts]


def _sizes(axes: Mapping[str, list[_Axis]], ranks: int) -> dict[str, int]:
    """The layout: sizes of the dense parameters' meshes, EP of the experts', PP of what is left of all ranks."""
    sizes = {"TP": 1, "EP": 1, "ETP": 1, "HSDP": 1, "FSDP": 1}
    for parts in axes.values():
        mine: dict[str, int] = {}
        for axis, size, _, _ in parts:
            mine[axis] = mine.get(axis, 1) * size
        if "EP" in mine:
            sizes["EP"] = max(sizes["EP"], mine["EP"])
            sizes["ETP"] = max(sizes["ETP"], mine.get("TP", 1), mine.get("ETP", 1))
            continue
        for axis, size in mine.items():
            sizes[axis] = max(sizes[axis], size)
    stage = sizes["TP"] * sizes["HSDP"] * sizes["FSDP"]
    if ranks % stage != 0:
        raise UsageError(f"the trainer has {ranks} ranks, and the parameters' meshes {stage}, which does not divide them: all ranks of "
                         "the process group are train ranks, or give rank and ranks")  # fmt: skip
    sizes["PP"] = ranks // stage
    return sizes


def _check_place(name: str, tensor: Any, parts: list[_Axis], sizes: Mapping[str, int], rank: int, recipe: str) -> None:
    """Refuses a rank that is elsewhere on the parameter's mesh than refit's order has it: tp, fsdp, hsdp, pp from the inside out; of
    experts ep, then their shards."""
    shards, replica = sizes["FSDP"] * sizes["TP"], sizes["HSDP"]
    s = rank % (shards * replica)
    at: dict[str, int] = {}
    size_of: dict[str, int] = {}
    for axis, size, coordinate, _ in parts:
        at[axis] = at.get(axis, 0) * size + coordinate
        size_of[axis] = size_of.get(axis, 1) * size
    if "EP" in size_of:
        in_experts = s // sizes["ETP"] % (_expert_ranks(sizes, recipe) // sizes["ETP"])
        expected = {"EP": in_experts % sizes["EP"], "FSDP": in_experts // sizes["EP"], "HSDP": s // shards, "TP": s % sizes["ETP"],
                    "ETP": s % sizes["ETP"]}  # fmt: skip
    else:
        expected = {"TP": s % sizes["TP"], "FSDP": s // sizes["TP"] % sizes["FSDP"], "HSDP": s // shards}
    for axis, coordinate in at.items():
        if size_of[axis] > 1 and coordinate != expected[axis]:
            raise UsageError(f"{name}: rank {rank} is {coordinate} along {axis} of its mesh, refit has it at {expected[axis]}: ranks must "
                             "count tp, then fsdp (with cp), then replicas, then pp from the inside out", tensor=name, rank=rank)  # fmt: skip


def _expert_ranks(sizes: Mapping[str, int], recipe: str) -> int:
    """The ranks that share a layer's experts: with Automodel all of a stage, else those of one replica."""
    return sizes["FSDP"] * sizes["TP"] * (sizes["HSDP"] if recipe == "automodel" else 1)


def _experts(found: Mapping[str, Any]) -> str | None:
    """How a layer's experts are held, None where they are single or there are none."""
    for name, tensor in found.items():
        word = name.removesuffix(".weight").rpartition(".")[2]
        if word in _EXPERTS and _is_stacked(name, tensor):
            return _EXPERTS[word]
    return None


def _is_stacked(name: str, tensor: Any) -> bool:
    return len(tensor.shape) == 3 and name.removesuffix(".weight").rpartition(".")[0].endswith("experts")


def _shard_dims(axes: Mapping[str, list[_Axis]], found: Mapping[str, Any], sizes: Mapping[str, int], recipe: str) -> list[str] | None:
    """train.shard_dim: rules for parameters outside of EP that are cut along another dimension than 0, and for stacked experts where the
    recipe's choice depends on what placements do not show; None where none is needed."""
    cut: dict[str, int] = {}
    for name, parts in axes.items():
        for axis, size, _, placement in parts:
            if axis == "FSDP" and size > 1 and all(other != "EP" for other, _, _, _ in parts):
                cut[name] = int(placement.dim)
    open_choice = recipe == "torchtitan" and sizes["TP"] > 1 and sizes["PP"] == 1
    chosen = {name: dim for name, dim in cut.items() if dim > 0 or (open_choice and _is_stacked(name, found[name]))}
    if not chosen:
        return None
    if sizes["PP"] > 1:
        raise UsageError(
            "parameters are cut along other dimensions than 0, and this rank does not see those of other pipeline stages: say what is "
            'cut with shard_dim=["GLOB=N", ...], as train.shard_dim has it',
            tensor=next(iter(chosen)),
        )
    dims: dict[str, set[int]] = {}
    for name, dim in cut.items():
        dims.setdefault(_glob(name), set()).add(dim)
    return list(dict.fromkeys(f"{_glob(name) if len(dims[_glob(name)]) == 1 else name}={dim}" for name, dim in chosen.items()))


def _glob(name: str) -> str:
    """A parameter's name for all layers and experts."""
    return re.sub(r"\.\d+(?=\.)", ".*", name)
