"""The train side of a live Megatron-Core model, without Megatron-Bridge.

    spec, tensors = refit.megatron.side(model)          # on every train rank, after initialize_model_parallel
    plan = refit.Plan("config.json", train=spec, gen="vllm TP4")
    session = refit.Session(plan, control, train=lambda: refit.megatron.side(model)[1])

`model` is what get_model or a Bridge's provider returns: a module, or a list with one for each of the rank's model chunks
(virtual pipeline stages), in whatever wrappers: DDP, Float16Module. Nothing is copied: the tensors are the parameters
themselves, and those buffers that are weights (the router's expert_bias).

Read are megatron.core.parallel_state, the model's configuration (TransformerConfig) and its parameters. Names are those of
Transformer Engine's modules, which Plan.storages lists; what the local (non-TE) modules call otherwise and keep alike is
renamed. In a model with several chunks a name begins with the chunk, as in "chunk 1: decoder.layers.0.mlp.linear_fc2.weight".
"""

import re

from . import _live

_LAYER = r"((?:.*\.)?(?:decoder\.layers\.\d+|mtp_model_layer)\.)"
# Megatron-Core's local modules have norms and experts apart; the values are the same.
_LOCAL_EXPERT = re.compile(_LAYER + r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])\.(weight|bias)")
_LOCAL_NORM = re.compile(_LAYER + r"(input_layernorm|pre_mlp_layernorm)\.weight")
_FUSED_NORM = {"input_layernorm": ("self_attention.linear_qkv.", "self_attention.linear_qkv.layer_norm_weight"),
               "pre_mlp_layernorm": ("mlp.linear_fc1.", "mlp.linear_fc1.layer_norm_weight")}  # fmt: skip
_LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


def side(model, **options):
    """Returns (spec, tensors) of this rank: the train side of refit.Plan, equal on all ranks, and {name: tensor}.

    `options`: further keys of a case's [train] that the model does not show, such as mtp=False where the checkpoint has
    layers of multi-token prediction that are not trained.

    Not collective. Errors: refit.UsageError, for what refit cannot place: ranks in another order than tp-cp-ep-dp-pp,
    parameters that are sharded over data-parallel ranks or kept quantised, or gathered later than the optimiser's step.
    """
    from megatron.core import parallel_state

    wrapped = _live.as_list(model)
    chunks = [_unwrapped(chunk) for chunk in wrapped]
    sizes = _sizes(parallel_state)
    _check_order(parallel_state, sizes)
    for chunk in wrapped:
        _check_whole(chunk)
    tensors = {}
    for number, chunk in enumerate(chunks):
        prefix = f"chunk {number}: " if len(chunks) > 1 else ""
        for name, tensor in _named(chunk).items():
            tensors[prefix + name] = tensor
    keys = _pipeline(chunks[0], chunks[0].config, len(chunks))
    vocabulary = _vocabulary_rows(chunks[0])
    if vocabulary:  # any multiple that rounds the model's vocabulary up to the rows that there are
        keys["make_vocab_size_divisible_by"] = vocabulary // sizes["TP"]
    keys["precision"] = _live.precision(tensors)
    return _live.spec("megatron", sizes, {**keys, **options}), tensors


def _unwrapped(module):
    """Returns the model inside DDP and Float16Module, which keep it in `module`."""
    while not hasattr(module, "decoder") and hasattr(module, "module"):
        module = module.module
    return module


def _sizes(state):
    return {
        "TP": state.get_tensor_model_parallel_world_size(),
        "CP": state.get_context_parallel_world_size(),
        "EP": state.get_expert_model_parallel_world_size(),
        "ETP": state.get_expert_tensor_parallel_world_size(),
        "DP": state.get_data_parallel_world_size(),
        "PP": state.get_pipeline_model_parallel_world_size(),
    }


def _check_order(state, sizes):
    """Refuses ranks that are numbered in another order than refit's (Megatron-Core's default)."""
    for shard in ("get_gtp_weight_remat_world_size", "get_expert_gtp_weight_remat_world_size"):
        if getattr(state, shard, lambda: 1)() not in (None, 1):
            raise _live.usage_error("Megatron-Core's GTP shards weights over further ranks (gtp_remat), for which refit "
                                    "has no rule; set it to 1")
    rank, ranks = _live.rank_of_trainer()
    all_ranks = sizes["TP"] * sizes["CP"] * sizes["DP"] * sizes["PP"]
    if ranks != all_ranks:
        raise _live.usage_error(f"the process group has {ranks} ranks, and TP x CP x DP x PP are {all_ranks}; "
                                "refit's train ranks are all ranks of the trainer's group, and only they")
    stage = all_ranks // sizes["PP"]
    s = rank % stage
    expected = {
        "tp": s % sizes["TP"], "cp": s // sizes["TP"] % sizes["CP"], "dp": s // (sizes["TP"] * sizes["CP"]),
        "etp": s % sizes["ETP"], "ep": s // sizes["ETP"] % sizes["EP"], "pp": rank // stage,
    }  # fmt: skip
    found = {
        "tp": state.get_tensor_model_parallel_rank(), "cp": state.get_context_parallel_rank(),
        "dp": state.get_data_parallel_rank(), "etp": state.get_expert_tensor_parallel_rank(),
        "ep": state.get_expert_model_parallel_rank(), "pp": state.get_pipeline_model_parallel_rank(),
    }  # fmt: skip
    if found != expected:
        differ = [f"{axis} {found[axis]}, not {expected[axis]}" for axis in expected if found[axis] != expected[axis]]
        raise _live.usage_error(f"rank {rank} has {', '.join(differ)}: ranks must be in Megatron-Core's default order "
                                "tp-cp-ep-dp-pp; initialise without use_tp_pp_dp_mapping and without an order", rank=rank)


def _check_whole(chunk):
    """Refuses what keeps other parameters than a forward would read."""
    settings = getattr(chunk, "ddp_config", None)
    if getattr(settings, "use_megatron_fsdp", False) or getattr(settings, "use_custom_fsdp", False):
        raise _live.usage_error("Megatron-FSDP shards parameters over data-parallel ranks, for which refit has no rule; "
                                "use Megatron's DDP, also with the distributed optimizer")
    if getattr(settings, "overlap_param_gather", False):
        raise _live.usage_error("with overlap_param_gather a rank has its own shard of new parameters until the next forward "
                                "gathers the others; set ddp_config.overlap_param_gather to False")


def _named(chunk):
    """Returns {name: tensor} of one chunk: parameters, and persistent buffers of floating point."""
    found = dict(chunk.named_parameters())
    for path, module in chunk.named_modules():
        transient = getattr(module, "_non_persistent_buffers_set", ())
        for name, buffer in module.named_buffers(recurse=False):
            if name not in transient and _live.dtype_name(buffer) is not None:
                found[f"{path}.{name}" if path else name] = buffer
    for name, tensor in found.items():
        kind = type(tensor).__name__
        if hasattr(tensor, "placements"):
            raise _live.usage_error(f"{name} is a DTensor; parameters must be whole on their tensor-parallel rank: use "
                                    "Megatron's DDP, also with the distributed optimizer", tensor=name)
        if "Float8" in kind or "MXFP8" in kind or "NVFP4" in kind or "Quantized" in kind:
            raise _live.usage_error(f"{name} is kept quantised ({kind}), and refit reads parameters in bf16, fp16 or fp32 here; "
                                    "train without fp8_param (fp8_param_gather)", tensor=name)
    return _in_names_of_te(found)


def _in_names_of_te(found):
    """Returns the same tensors under the names that Transformer Engine's modules give them."""
    renamed = {}
    for name, tensor in found.items():
        renamed[_te_name(name, found)] = tensor
    return renamed


def _te_name(name, found):
    expert = _LOCAL_EXPERT.fullmatch(name)
    if expert:
        return f"{expert[1]}mlp.experts.{expert[3]}.{expert[4]}{expert[2]}"
    norm = _LOCAL_NORM.fullmatch(name)
    if norm:  # MLA and experts have the norm apart with TE, too
        module, fused = _FUSED_NORM[norm[2]]
        if norm[1] + module + "weight" in found and norm[1] + fused not in found:
            return norm[1] + fused
    return name


def _pipeline(model, config, chunks):
    """Returns the keys that say how layers are split over pipeline ranks and chunks."""
    keys = {}
    layout = getattr(config, "pipeline_model_parallel_layout", None)
    pattern = getattr(model, "hybrid_layer_pattern", None) or getattr(config, "hybrid_layer_pattern", None)
    stages = getattr(config, "pipeline_model_parallel_size", 1)
    if layout is not None:
        return {"pipeline_layout": _layout_text(layout)}
    if pattern and "|" in str(pattern):
        return {"hybrid_layer_pattern": str(pattern).split("/")[0]}
    if stages > 1:
        for key, name in (("first_stage_layers", "num_layers_in_first_pipeline_stage"),
                          ("last_stage_layers", "num_layers_in_last_pipeline_stage"),
                          ("account_for_embedding", "account_for_embedding_in_pipeline_split"),
                          ("account_for_loss", "account_for_loss_in_pipeline_split")):  # fmt: skip
            if getattr(config, name, None):
                keys[key] = getattr(config, name)
    if chunks > 1:
        keys["virtual_stages"] = chunks
    return keys


def _layout_text(layout):
    """Returns a PipelineParallelLayerLayout as text; it keeps a list [pp][vp] of lists of layer types."""
    if isinstance(layout, str):
        return layout
    by_rank = layout.layout
    sections = [by_rank[rank][chunk] for chunk in range(len(by_rank[0])) for rank in range(len(by_rank))]
    return "|".join("".join(_LETTERS[layer.name] for layer in section) for section in sections)


def _vocabulary_rows(model):
    """Returns the rows of the padded vocabulary, which a model knows on all its stages; None where it does not say."""
    language = getattr(model, "language_model", model)
    return getattr(language, "vocab_size", None)
