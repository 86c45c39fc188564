"""The train side of a live Megatron-Core model, without Megatron-Bridge.

    import refit.megatron

    spec, tensors = refit.megatron.side(model)               # on every train rank, after initialize_model_parallel
    plan = refit.Plan("config.json", train=spec, gen="vllm TP4")
    session = refit.Session(plan, control, train=lambda: refit.megatron.side(model)[1])

`model` is what get_model or a Bridge's provider returns: a module, or a list with one for each of the rank's model chunks
(virtual pipeline stages), in whatever wrappers (DDP, Float16Module). Nothing is copied: the tensors are the parameters
themselves, and those buffers that are weights (the router's expert_bias).

Read are megatron.core.parallel_state, the model's configuration (TransformerConfig) and its parameters. Names are those of
Transformer Engine's modules, as Plan.storages lists them; what Megatron-Core's local modules keep alike under other names is
renamed. In a model with several chunks a name begins with its chunk: "chunk 1: decoder.layers.0.mlp.linear_fc2.weight".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from refit import _live
from refit.errors import UsageError

_LAYER = r"((?:.*\.)?(?:decoder\.layers\.\d+|mtp_model_layer)\.)"
# The local modules keep experts, and the norms that TE fuses into the product behind them, apart.
_LOCAL_EXPERT = re.compile(_LAYER + r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])\.(weight|bias)")
_LOCAL_NORM = re.compile(_LAYER + r"(input_layernorm|pre_mlp_layernorm)\.weight")
_FUSED_INTO = {"input_layernorm": "self_attention.linear_qkv", "pre_mlp_layernorm": "mlp.linear_fc1"}
_QUANTISED = ("Float8", "MXFP8", "NVFP4", "Quantized")
# Letters of pipeline_model_parallel_layout, by the names of Megatron-Core's LayerType.
_LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
_STAGE_KEYS = {
    "num_layers_in_first_pipeline_stage": "first_stage_layers",
    "num_layers_in_last_pipeline_stage": "last_stage_layers",
    "account_for_embedding_in_pipeline_split": "account_for_embedding",
    "account_for_loss_in_pipeline_split": "account_for_loss",
}


def side(model: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    """Returns (spec, tensors): the train side of refit.Plan, equal on all ranks, and this rank's {name: tensor}.

    options: further keys of a case's [train] that the model does not show, such as mtp=False where the checkpoint has layers of
        multi-token prediction that are not trained.

    Not collective. Errors: UsageError, for what refit has no rule for: ranks in another order than tp-cp-ep-dp-pp,
    parameters that are sharded over data-parallel ranks, kept quantised, or gathered later than the optimiser's step.
    """
    from megatron.core import parallel_state  # type: ignore[import-not-found, unused-ignore]

    if not parallel_state.model_parallel_is_initialized():
        raise UsageError("megatron.core.parallel_state is not initialised: call initialize_model_parallel first")
    wrapped = _live.as_list(model)
    sizes = _sizes(parallel_state)
    _check_order(parallel_state, sizes)
    for chunk in wrapped:
        _check_whole(chunk)
    chunks = [_unwrapped(chunk) for chunk in wrapped]
    tensors: dict[str, Any] = {}
    for number, chunk in enumerate(chunks):
        prefix = f"chunk {number}: " if len(chunks) > 1 else ""
        tensors.update({prefix + name: tensor for name, tensor in _named(chunk).items()})
    keys = _pipeline(chunks[0], len(chunks))
    keys["make_vocab_size_divisible_by"] = _vocabulary_multiple(chunks[0], sizes["TP"])
    keys["precision"] = _live.precision(tensors)
    return _live.spec("megatron", sizes, {**keys, **options}), tensors


def _unwrapped(module: Any) -> Any:
    """The model inside DDP and Float16Module, which keep it in `module`."""
    while not hasattr(module, "decoder") and hasattr(module, "module"):
        module = module.module
    return module


def _sizes(state: Any) -> dict[str, int]:
    return {
        "TP": state.get_tensor_model_parallel_world_size(),
        "CP": state.get_context_parallel_world_size(),
        "EP": state.get_expert_model_parallel_world_size(),
        "ETP": state.get_expert_tensor_parallel_world_size(),
        "DP": state.get_data_parallel_world_size(),
        "PP": state.get_pipeline_model_parallel_world_size(),
    }


def _check_order(state: Any, sizes: Mapping[str, int]) -> None:
    """Refuses ranks that are numbered in another order than Megatron-Core's default, which is refit's."""
    for shards in ("get_gtp_weight_remat_world_size", "get_expert_gtp_weight_remat_world_size"):
        if getattr(state, shards, lambda: 1)() not in (None, 1):
            raise UsageError("Megatron-Core's gtp_remat shards weights over further ranks, for which refit has no rule; set its size to 1")
    rank, ranks = _live.rank_of_trainer()
    stage = sizes["TP"] * sizes["CP"] * sizes["DP"]
    if ranks != stage * sizes["PP"]:
        raise UsageError(
            f"the default process group has {ranks} ranks, and TP x CP x DP x PP are {stage * sizes['PP']}: it must be the trainer's, alone"
        )
    s = rank % stage
    expected = {
        "tp": s % sizes["TP"],
        "cp": s // sizes["TP"] % sizes["CP"],
        "dp": s // (sizes["TP"] * sizes["CP"]),
        "etp": s % sizes["ETP"],
        "ep": s // sizes["ETP"] % sizes["EP"],
        "pp": rank // stage,
    }
    found = {
        "tp": state.get_tensor_model_parallel_rank(),
        "cp": state.get_context_parallel_rank(),
        "dp": state.get_data_parallel_rank(),
        "etp": state.get_expert_tensor_parallel_rank(),
        "ep": state.get_expert_model_parallel_rank(),
        "pp": state.get_pipeline_model_parallel_rank(),
    }
    differ = [f"{axis} {found[axis]} instead of {expected[axis]}" for axis in expected if found[axis] != expected[axis]]
    if differ:
        raise UsageError(
            f"rank {rank} has {', '.join(differ)}: refit's ranks are in Megatron-Core's default order, tp-cp-ep-dp-pp; "
            "initialise without use_tp_pp_dp_mapping and without another order",
            rank=rank,
        )


def _check_whole(chunk: Any) -> None:
    """Refuses wrappers that leave parameters other than the next forward will read them."""
    settings = getattr(chunk, "ddp_config", None)
    if getattr(settings, "use_megatron_fsdp", False) or getattr(settings, "use_custom_fsdp", False):
        raise UsageError(
            "Megatron-FSDP shards parameters over data-parallel ranks, for which refit has no rule; use Megatron's DDP, also "
            "with the distributed optimizer"
        )
    if getattr(settings, "overlap_param_gather", False):
        raise UsageError(
            "with overlap_param_gather a rank has only its own shard of new parameters, until the next forward gathers the "
            "others; set it to False"
        )


def _named(chunk: Any) -> dict[str, Any]:
    """{name: tensor} of one chunk, under the names that Transformer Engine's modules give them."""
    found = _live.weights(chunk)
    for name, tensor in found.items():
        kind = type(tensor).__name__
        if hasattr(tensor, "placements"):
            raise UsageError(f"{name} is a DTensor; parameters must be whole, as with Megatron's DDP", tensor=name)
        if any(word in kind for word in _QUANTISED):
            raise UsageError(
                f"{name} is kept quantised ({kind}); refit reads live parameters in bf16, fp16 or fp32: train without fp8_param",
                tensor=name,
            )
    if any(name.endswith(".self_attention.kv_layernorm.weight") for name in found) and not any(".indexer." in name for name in found):
        raise UsageError(
            "latent attention (MLA) of Megatron-Core's local modules cuts the down projections over TP, for which refit has no rule; use "
            "Transformer Engine's modules (transformer_impl)"
        )
    return {_name_of_te(name, found): tensor for name, tensor in found.items()}


def _name_of_te(name: str, found: Mapping[str, Any]) -> str:
    expert = _LOCAL_EXPERT.fullmatch(name)
    if expert:
        layer, number, product, kind = expert.groups()
        return f"{layer}mlp.experts.{product}.{kind}{number}"
    norm = _LOCAL_NORM.fullmatch(name)
    if norm:  # with MLA and before experts the norm is apart in TE's modules, too
        product = norm[1] + _FUSED_INTO[norm[2]]
        if f"{product}.weight" in found:
            return f"{product}.layer_norm_weight"
    return name


def _pipeline(model: Any, chunks: int) -> dict[str, Any]:
    """The keys that say how layers are split over pipeline ranks and their chunks."""
    config = model.config
    layout = getattr(config, "pipeline_model_parallel_layout", None)
    if layout is not None:
        return {"pipeline_layout": _layout_text(layout)}
    pattern = getattr(model, "hybrid_layer_pattern", None)
    if pattern and "|" in pattern:
        return {"hybrid_layer_pattern": pattern.split("/")[0]}  # what follows are layers of multi-token prediction
    keys: dict[str, Any] = {}
    if config.pipeline_model_parallel_size > 1:
        keys = {key: getattr(config, name) for name, key in _STAGE_KEYS.items() if getattr(config, name, None)}
    if chunks > 1:
        keys["virtual_stages"] = chunks
    return keys


def _layout_text(layout: Any) -> str:
    """A PipelineParallelLayerLayout as its text. It keeps layers by pipeline rank and chunk; sections go through all ranks first."""
    by_rank = layout.layout
    sections = [stage[chunk] for chunk in range(len(by_rank[0])) for stage in by_rank]
    return "|".join("".join(_LETTERS[layer.name] for layer in section) for section in sections)


def _vocabulary_multiple(model: Any, tp: int) -> int | None:
    """A multiple that rounds the checkpoint's vocabulary, whatever it is, up to the rows that the model has on all TP ranks. None where
    the configuration knows the checkpoint's vocabulary (a Bridge's does) and it is not padded."""
    rows = getattr(getattr(model, "language_model", model), "vocab_size", None)
    return None if rows is None or rows == getattr(model.config, "vocab_size", None) else int(rows) // tp
