"""The side of a refit that a vLLM engine is, as text: "vllm TP4 precision=fp8", from vLLM's own configuration.

Keys and words are those of a case's [gen] section (`refit run --help`), as docs/layouts.md explains them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import refit

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig

# By vLLM's name of a quantisation. Those that are not here have no rule, or several (compressed-tensors, fp8: see below).
_PRECISIONS = {
    "modelopt": "fp8_tensor",
    "modelopt_fp4": "nvfp4",
    "modelopt_mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "gpt_oss_mxfp4": "mxfp4",
    "auto_gptq": "gptq",
    "auto_awq": "awq",
}

# Backends of experts whose loaded layout is not the usual one, by the name of vLLM's value. A CUTLASS layout is written directly and not
# loaded (weights.py), of unquantised experts only.
_MOE_BACKENDS = {
    "unquantized_backend": {"FLASHINFER_TRTLLM": "flashinfer_trtllm", "FLASHINFER_CUTLASS": "flashinfer_cutlass"},
    "fp8_backend": {"DEEPGEMM": "deep_gemm", "BATCHED_DEEPGEMM": "deep_gemm"},
    "mxfp4_backend": {"MARLIN": "marlin"},
}


def refusals(model: torch.nn.Module, vllm_config: VllmConfig) -> list[str]:
    """Returns what in a configuration cannot be refitted, one sentence each: nothing of it would be noticed later."""
    parallel = vllm_config.parallel_config
    found = []
    if parallel.prefill_context_parallel_size > 1:
        found.append(f"prefill_context_parallel_size = {parallel.prefill_context_parallel_size} has no rule here; use 1")
    if parallel.enable_eplb:
        found.append("enable_eplb moves experts between refits, and a plan is made once; switch it off")
    if vllm_config.lora_config is not None:
        found.append("LoRA puts the base weights into modules of other names; serve the merged model without lora_config")
    if vllm_config.model_config.quantization == "torchao":
        found.append("torchao's weights are tensor subclasses; use one of vLLM's own quantisations")
    if any(getattr(parameter, "_vllm_is_uva_offloaded", False) for parameter in model.parameters()):
        found.append("weights are offloaded to the host (cpu_offload_gb); set it to 0")
    return found


def notes(vllm_config: VllmConfig) -> list[str]:
    """Returns what stays as it was loaded, though it might follow the weights."""
    found = []
    if vllm_config.speculative_config is not None and vllm_config.speculative_config.draft_model_config is not None:
        found.append("the drafter is not refitted: what it proposes is accepted less often as the model moves on")
    if vllm_config.cache_config.cache_dtype.startswith("fp8"):
        found.append("scales of the FP8 KV cache stay as they were loaded")
    return found


def side_text(model: torch.nn.Module, vllm_config: VllmConfig, loaded_dtypes: set[torch.dtype]) -> str:
    """Returns the side. `loaded_dtypes`: of the parameters as a checkpoint is loaded into them. Errors (usage): a quantisation without a
    rule."""
    parallel = vllm_config.parallel_config
    config = vllm_config.model_config
    experts = _expert_modules(model)
    axes = [f"TP{parallel.tensor_parallel_size}"]
    if parallel.pipeline_parallel_size > 1:
        axes.append(f"PP{parallel.pipeline_parallel_size}")
    if parallel.data_parallel_size > 1:
        axes.append(f"DP{parallel.data_parallel_size}")
    expert_ranks = parallel.tensor_parallel_size * parallel.data_parallel_size
    if parallel.enable_expert_parallel and experts and expert_ranks > 1:
        axes.append(f"EP{expert_ranks}")
    words = ["vllm", "x".join(axes)]

    def add(key: str, value: object, preset: object) -> None:
        if value != preset:
            words.append(f"{key}={value}")

    from vllm import envs

    precision = _precision(vllm_config, loaded_dtypes)
    add("data_parallel", "internal" if parallel.data_parallel_size > 1 else "engines", "engines")
    if parallel.pipeline_parallel_size > 1:
        add("stage_layers", envs.VLLM_PP_LAYER_PARTITION, None)
    add("precision", precision, "bf16")
    add("moe_backend", _moe_backend(experts), "triton")
    if experts and parallel.enable_expert_parallel:
        add("expert_placement", parallel.expert_placement_strategy, "linear")
    if config.multimodal_config is not None and hasattr(model, "visual"):
        add("mm_encoder_tp", config.multimodal_config.mm_encoder_tp_mode, "weights")
    if ".nvidia." in f"{type(model).__module__}.":
        add("model_class", "nvidia", "portable")
        add("replicate_embedding", "true" if envs.VLLM_REPLICATE_EMBED else "false", "false")
    return " ".join(words)


def _expert_modules(model: torch.nn.Module) -> list[Any]:
    from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase

    return [module for module in model.modules() if isinstance(getattr(module, "quant_method", None), FusedMoEMethodBase)]


def _moe_backend(experts: list[Any]) -> str:
    """Returns the word for how the engine holds experts while they are loaded. Errors (usage): layers that differ in it."""
    words = set()
    for module in experts:
        word = "triton"
        for attribute, names in _MOE_BACKENDS.items():
            backend = getattr(module.quant_method, attribute, None)
            word = names.get(getattr(backend, "name", ""), word)
        words.add(word)
    if len(words) > 1:
        raise refit.UsageError(f"vLLM chose several backends for experts ({', '.join(sorted(words))}); name one with --moe-backend")
    return words.pop() if words else "triton"


def _precision(vllm_config: VllmConfig, loaded_dtypes: set[torch.dtype]) -> str:
    """Returns the precision of what a checkpoint is loaded into. Weights that vLLM quantises itself after loading (quantization="fp8" for a
    checkpoint in bf16) are loaded, and so refitted, in the model's dtype."""
    import torch

    plain = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    quantisation = vllm_config.quant_config
    if quantisation is None or loaded_dtypes <= set(plain):
        return plain[vllm_config.model_config.dtype]
    name = quantisation.get_name()
    if name == "fp8":
        return "fp8" if quantisation.weight_block_size is not None else "fp8_tensor"
    if name == "compressed-tensors":
        return _compressed_tensors(quantisation)
    if name in _PRECISIONS:
        return _PRECISIONS[name]
    raise refit.UsageError(
        f"weights of vLLM's quantisation {name} have no rule here; known: fp8, compressed-tensors, {', '.join(_PRECISIONS)}"
    )


def _compressed_tensors(quantisation: Any) -> str:
    """Returns the precision of a checkpoint of compressed-tensors, whose groups must have one."""
    found = set()
    for scheme in quantisation.target_scheme_map.values():
        weights = scheme.get("weights")
        if weights is None:
            continue
        kind, bits, strategy = (
            str(getattr(weights.type, "value", weights.type)),
            weights.num_bits,
            str(getattr(weights.strategy, "value", weights.strategy)),
        )
        key = (kind, bits, strategy)
        group = weights.group_size
        if key == ("float", 4, "tensor_group"):
            found.add("nvfp4")
        elif kind == "float" and bits == 4:
            found.add("mxfp4")
        elif kind == "float" and bits == 8:
            by_strategy = {"tensor": "fp8_tensor", "channel": "fp8_channel", "block": "fp8", "group": "mxfp8" if group == 32 else "?"}
            found.add(by_strategy.get(strategy, "?"))
        elif kind == "int" and bits == 4:
            found.add("int4" if weights.symmetric else "int4_asym")
        else:
            found.add("?")
    if len(found) != 1 or "?" in found:
        raise refit.UsageError(
            "weights of compressed-tensors have no rule here unless all groups are FP8 by tensor, row or block, MXFP8, NVFP4, MXFP4 or INT4"
        )
    return found.pop()
