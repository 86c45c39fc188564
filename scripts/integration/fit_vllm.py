#!/usr/bin/env python3
"""Real vLLM models against refit's plans, without a trainer: do names, shapes and dtypes fit, and does the plug-in repeat vLLM's post-load
steps?

    GEN_PYTHON scripts/integration/fit_vllm.py [CASE ...]

For each case and rank vLLM makes a small model (random weights, its own post-load steps), and a second one of the same configuration, whose
parameters are filled with other values before they are processed. `refit_vllm.Weights` of the first must fit the plan (`Weights.fit`); then
the values that the second was filled with are written into its tensors, `Weights.finish()` is called, and everything that the first model
holds must equal, bit for bit, what vLLM made of the second, at the addresses that it had. That is done twice. Ends with 0 if all cases were
right.

Kernels that a CPU has not are chosen by force where a case says so: what vLLM does to weights for them is its own code, and none of them is
run."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_TARGET_DEVICE="cpu",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_PLUGINS="",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

ATTENTION = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16}
SMALL = {
    "vocab_size": 192,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    **ATTENTION,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1, "mlp_only_layers": []}
BLOCKS = {**SMALL, "hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 8}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "shared_expert_intermediate_size": 64,
}
# By name: transformers' class of the configuration, vLLM's class, and sizes.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {k: v for k, v in SMALL.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SMALL),
    "qwen3, vocabulary 250": ("Qwen3Config", "Qwen3ForCausalLM", {**SMALL, "vocab_size": 250}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**SMALL, **EXPERTS}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**SMALL, "num_local_experts": 6, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            **{k: v for k, v in SMALL.items() if k != "head_dim"},
            "num_key_value_heads": 8,
            "n_shared_experts": 1,
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
            "q_lora_rank": 48,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "num_nextn_predict_layers": 0,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "nemotron_h": (
        "NemotronHConfig",
        "NemotronHForCausalLM",
        {
            **{k: v for k, v in SMALL.items() if k != "num_hidden_layers"},
            "hybrid_override_pattern": "M-E*M",
            "num_key_value_heads": 2,
            "ssm_state_size": 16,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 4,
            "conv_kernel": 4,
            "chunk_size": 16,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 64,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {**SMALL, "intermediate_size": 64, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 32},
    ),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", {**SMALL, **EXPERTS, **DELTA}),
    "qwen3, FP8 blocks": ("Qwen3Config", "Qwen3ForCausalLM", BLOCKS),
    "qwen3_moe, FP8 blocks": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**BLOCKS, **EXPERTS, "moe_intermediate_size": 256}),
}


# They stay as they were loaded, which vLLM's dummy loader does with random numbers.
CACHE_SCALES = ("q_scale", "k_scale", "v_scale", "prob_scale")


@dataclass(frozen=True)
class Case:
    model: str
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    # Names of vLLM's: a class of kernels for FP8 linear layers, and a backend for experts.
    fp8: str = ""
    experts: str = ""
    quantised: dict[str, Any] = field(default_factory=dict)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
FP8_EXPERTS = {**FP8, "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]}
CASES = {
    **{name: Case(name, experts="TRITON") for name in MODELS if "FP8" not in name},
    "qwen3 TP2": Case("qwen3", tp=2),
    "qwen3, vocabulary 250, TP4": Case("qwen3, vocabulary 250", tp=4),
    "qwen3 PP2": Case("qwen3", pp=2),
    "qwen3_moe, the CPU's experts": Case("qwen3_moe"),
    "qwen3_moe, experts of FlashInfer CUTLASS": Case("qwen3_moe", experts="FLASHINFER_CUTLASS"),
    "qwen3_moe TP2 EP2": Case("qwen3_moe", tp=2, ep=True, experts="TRITON"),
    "qwen3_moe TP2 DP2 EP4": Case("qwen3_moe", tp=2, dp=2, ep=True, experts="TRITON"),
    "deepseek_v3 TP2 DP2 EP4": Case("deepseek_v3", tp=2, dp=2, ep=True, experts="TRITON"),
    "mixtral TP4 EP4": Case("mixtral", tp=4, ep=True, experts="TRITON"),
    "gpt_oss TP2": Case("gpt_oss", tp=2, experts="TRITON"),
    "qwen3, FP8 for Triton": Case("qwen3, FP8 blocks", fp8="TritonFp8BlockScaledMMKernel", quantised=FP8),
    "qwen3, FP8 for CUTLASS, TP2": Case("qwen3, FP8 blocks", tp=2, fp8="CutlassFp8BlockScaledMMKernel", quantised=FP8),
    "qwen3_moe, FP8 for Triton": Case("qwen3_moe, FP8 blocks", fp8="TritonFp8BlockScaledMMKernel", experts="TRITON", quantised=FP8_EXPERTS),
}


def choose_kernels(case: Case) -> None:
    """Lets vLLM choose the kernels of the case, and hold experts that its CPU platform refuses."""
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.fused_moe import config as experts_config
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method
    from vllm.model_executor.layers.fused_moe.oracle import unquantized
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
    from vllm.model_executor.layers.quantization import fp8

    triton = unquantized.backend_to_kernel_cls(unquantized.UnquantizedMoeBackend.TRITON)[0]
    if case.experts:
        backend = unquantized.UnquantizedMoeBackend[case.experts]
        unquantized_fused_moe_method.select_unquantized_moe_backend = lambda moe_config: (backend, triton)
        fp8.select_fp8_moe_backend = lambda **_: (Fp8MoeBackend[case.experts], triton)
    if case.fp8:
        kernel = getattr(linear, case.fp8)
        linear.choose_scaled_mm_linear_kernel = lambda **_: kernel
    check = experts_config.FusedMoEConfig.__post_init__

    def without_refusal(self: Any) -> None:
        try:
            check(self)
        except NotImplementedError as error:  # its last statement
            if "is_act_and_mul=False is supported only for CUDA" not in str(error):
                raise

    experts_config.FusedMoEConfig.__post_init__ = without_refusal


def write_config(case: Case, folder: Path) -> None:
    import transformers

    config_class, architecture, sizes = MODELS[case.model]
    config = getattr(transformers, config_class)(**sizes).to_dict()
    config |= {"architectures": [architecture], "dtype": "bfloat16"}
    if case.quantised:
        config["quantization_config"] = case.quantised
    (folder / "config.json").write_text(json.dumps(config))


def configuration(case: Case, folder: Path, rank: int) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    ranks = case.tp * case.pp
    config = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        tensor_parallel_size=case.tp,
        pipeline_parallel_size=case.pp,
        enable_expert_parallel=case.ep,
        distributed_executor_backend="mp" if ranks > 1 else None,
        enforce_eager=True,
        load_format="dummy",
        max_model_len=64,
        max_num_seqs=4,
        **({"data_parallel_size": case.dp} if case.dp > 1 else {}),
    ).create_engine_config()
    config.parallel_config.rank = rank % ranks
    if case.dp > 1:
        config.parallel_config.data_parallel_rank = config.parallel_config.data_parallel_index = rank // ranks
    return config


def fill(model: Any, seed: int) -> dict[str, Any]:
    """Fills parameters with values of a seed, but for scales of the KV cache, which stay as they are loaded. Returns copies of them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(CACHE_SCALES):
            continue
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def check(case: Case, folder: Path, rank: int) -> str:
    """Returns what was found. Errors: anything that is not as it must be."""
    import refit
    import torch
    from refit_vllm import Weights
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.model_loader import get_model
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm_worker import differing_elements, state

    config = configuration(case, folder, rank)
    with set_current_vllm_config(config):
        parallel_state.ensure_model_parallel_initialized(case.tp, case.pp)
        model = get_model(vllm_config=config)
    weights = Weights(model, config)
    parallel = config.parallel_config
    plan = refit.Plan(folder, train="megatron TP1" if case.model == "gpt_oss" else "fsdp FSDP1", gen=weights.spec)
    weights.fit(plan, parallel.data_parallel_index * parallel.world_size + parallel.rank)
    tensors = weights.tensors()
    addresses = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    elements = 0
    for seed in (1, 2):
        other = configuration(case, folder, rank)
        with set_current_vllm_config(other), torch.device("cpu"), set_default_torch_dtype(torch.bfloat16):
            reference = initialize_model(other)
        loaded = fill(reference, seed)
        with torch.no_grad(), set_current_vllm_config(other):
            process_weights_after_loading(reference, other.model_config, torch.device("cpu"))
        for name, tensor in tensors.items():
            value = loaded[name]
            if "FLASHINFER_CUTLASS" in case.experts and name.endswith("w13_weight"):
                value = torch.cat(value.chunk(2, dim=1)[::-1], dim=1)  # the plan has [up; gate]
            tensor.data.copy_(value)
        weights.finish()
        found = dict(state(model))
        for name, expected in state(reference):
            if name.endswith(CACHE_SCALES):
                continue
            elements += expected.numel()
            if name not in found or differing_elements(found[name], expected) > 0:
                raise RuntimeError(f"{name} differs from what vLLM makes of the same weights")
    moved = [name for name, parameter in model.named_parameters() if parameter.data_ptr() != addresses[name]]
    if moved:
        raise RuntimeError(f"{moved[0]} has moved")
    derived = len(addresses) - len(tensors.keys() & addresses.keys())
    return (
        f"{weights.spec}: {len(tensors)} tensors fit, {len(weights.staged)} layers staged, {derived} parameters made by vLLM; "
        f"{elements} elements equal"
    )


def work(rank: int, ranks: int, port: int, case: Case, folder: Path, answers: Any) -> None:
    """One rank of a case."""
    try:
        import torch
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.distributed import parallel_state

        torch.set_num_threads(1)
        os.environ["VLLM_DIST_IDENT"] = f"{os.getppid()}_{port}"
        choose_kernels(case)
        with set_current_vllm_config(VllmConfig()):
            parallel_state.init_distributed_environment(ranks, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
        answers.put((rank, True, check(case, folder, rank)))
        torch.distributed.barrier()
    except Exception as error:  # goes to the table
        traceback.print_exc()
        answers.put((rank, False, f"{type(error).__name__}: {str(error)[:500]}"))


def run(name: str, case: Case) -> bool:
    ranks = case.tp * case.pp * case.dp
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        write_config(case, Path(folder))
        answers = context.Queue()
        processes = [context.Process(target=work, args=(rank, ranks, port, case, Path(folder), answers)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(900)
            process.kill()
        found = sorted(answers.get(timeout=5) for _ in range(ranks) if not answers.empty())
    right = len(found) == ranks and all(ok for _, ok, _ in found)
    texts = [text for _, ok, text in found if ok == right] or ["a process died"]
    print(f"{'OK' if right else 'FAILED':<7}{name:<42}{texts[0]}" + (f" (rank 0 of {ranks})" if ranks > 1 and right else ""), flush=True)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {'; '.join(CASES)}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {unknown[0]}")
    import importlib.metadata as packages

    print(", ".join(f"{name} {packages.version(name)}" for name in ("vllm", "torch", "transformers")), flush=True)
    results = [run(name, CASES[name]) for name in arguments.cases or CASES]
    print(f"{sum(results)} of {len(results)} cases right", flush=True)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
