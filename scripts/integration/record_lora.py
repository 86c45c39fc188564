#!/usr/bin/env python3
"""Records what real vLLM holds of LoRA adapters: tests/data/adapters.tar.xz.

    GEN_PYTHON scripts/integration/record_lora.py FOLDER [CASE ...]

For each case, vLLM makes a small model on every rank (CPU, gloo), wraps its layers, loads a PEFT adapter by its own loader, activates it;
FOLDER/vllm/<case>/rank<r>.safetensors are then its buffers of adapters, one for each slice, of the one adapter that it was started for
(max_loras = 1), by the names of the modules that have them. FOLDER/adapters/<model> are the configurations and the adapters: float32, every
element a unique integer, but for those whose name ends in "scaled", which are bfloat16 with an alpha that is no multiple of the rank.
Nothing in FOLDER is computed by this project."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import fit_vllm  # noqa: E402

SMALL = {**fit_vllm.SMALL, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
EXPERTS = {**fit_vllm.EXPERTS, "num_experts": 4, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", SMALL),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**{k: v for k, v in SMALL.items() if k != "head_dim"}, "pad_token_id": 0}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**SMALL, **EXPERTS}),
}
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# By name: model, targets, rank, alpha, dtype.
ADAPTERS: dict[str, tuple[str, list[str], int, float, str]] = {
    "qwen3": ("qwen3", DENSE, 4, 4, "float32"),
    "qwen3-some": ("qwen3", ["q_proj", "v_proj", "down_proj"], 6, 6, "float32"),
    "qwen3-scaled": ("qwen3", DENSE, 8, 11, "bfloat16"),
    "phi3": ("phi3", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], 8, 8, "float32"),
    "qwen3_moe": ("qwen3_moe", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 4, 4, "float32"),
}
ATTRIBUTES = [f"{prefix}lora_{which}_stacked" for prefix in ("", "w13_", "w2_") for which in "ab"]
# By name: adapter, TP, EP.
CASES: dict[str, tuple[str, int, bool]] = {
    **{f"{name}-TP{tp}": (name, tp, False) for name in ("qwen3", "qwen3-some", "phi3") for tp in (1, 2)},
    "qwen3-TP4": ("qwen3", 4, False),
    "qwen3-scaled-TP2": ("qwen3-scaled", 2, False),
    "qwen3_moe-TP1": ("qwen3_moe", 1, False),
    "qwen3_moe-TP2": ("qwen3_moe", 2, False),
    "qwen3_moe-TP2xEP2": ("qwen3_moe", 2, True),
}


def modules(model: str, targets: list[str]) -> list[tuple[str, int, int]]:
    """Returns name, outputs and inputs of the adapted modules."""
    _, _, sizes = MODELS[model]
    hidden, heads, kv = sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
    head = sizes.get("head_dim", hidden // heads)
    width = sizes.get("moe_intermediate_size", sizes["intermediate_size"])
    attention = {
        "q_proj": (heads * head, hidden),
        "k_proj": (kv * head, hidden),
        "v_proj": (kv * head, hidden),
        "qkv_proj": ((heads + 2 * kv) * head, hidden),
        "o_proj": (hidden, heads * head),
    }
    mlp = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "gate_up_proj": (2 * width, hidden), "down_proj": (hidden, width)}
    result = []
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        result += [(f"{prefix}self_attn.{name}", *attention[name]) for name in targets if name in attention]
        places = [f"mlp.experts.{e}." for e in range(sizes["num_experts"])] if "num_experts" in sizes else ["mlp."]
        result += [(f"{prefix}{place}{name}", *mlp[name]) for place in places for name in targets if name in mlp]
    return result


def write_adapter(folder: Path, name: str) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    model, targets, rank, alpha, dtype = ADAPTERS[name]
    config_class, architecture, sizes = MODELS[model]
    config = getattr(transformers, config_class)(**sizes).to_dict() | {"architectures": [architecture], "dtype": dtype}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    peft = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model, "bias": "none"}
    peft |= {"r": rank, "lora_alpha": alpha, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(peft, indent=1))
    tensors: dict[str, Any] = {}
    first = 1
    for module, outputs, inputs in modules(model, targets):
        for word, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
            values = torch.arange(first, first + shape[0] * shape[1], dtype=torch.float32).reshape(shape)
            if dtype == "bfloat16":
                values = torch.sin(values)
            tensors[f"base_model.model.{module}.{word}.weight"] = values.to(getattr(torch, dtype))
            first += shape[0] * shape[1]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def record(case: str, folder: Path, rank: int) -> int:
    """Writes the rank's buffers; returns their number."""
    import torch
    from safetensors.torch import save_file
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.model_executor.model_loader import get_model

    name, tp, ep = CASES[case]
    adapter = folder / "adapters" / name
    dtype = ADAPTERS[name][4]
    config = EngineArgs(
        model=str(adapter),
        skip_tokenizer_init=True,
        dtype=dtype,
        tensor_parallel_size=tp,
        enable_expert_parallel=ep,
        distributed_executor_backend="mp" if tp > 1 else None,
        enforce_eager=True,
        load_format="dummy",
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        enable_lora=True,
        max_lora_rank=8,
        max_loras=1,
    ).create_engine_config()
    config.parallel_config.rank = rank
    config.lora_config.lora_dtype = getattr(torch, dtype)
    with set_current_vllm_config(config):
        parallel_state.ensure_model_parallel_initialized(tp, 1)
        model = get_model(vllm_config=config)
        manager = WorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
        model = manager.create_lora_manager(model, config)
        manager.add_adapter(LoRARequest("adapter", 1, str(adapter)))
        manager._adapter_manager.activate_adapter(1)
    buffers = {}
    for module_name, module in model.named_modules():
        for attribute in ATTRIBUTES:
            stacked = getattr(module, attribute, None)
            if not isinstance(stacked, tuple):  # an MoE's lists are views of its tuples
                continue
            for i, buffer in enumerate(stacked):
                buffers[f"{module_name}.{attribute}.{i}"] = buffer.contiguous()
    target = folder / "vllm" / case
    target.mkdir(parents=True, exist_ok=True)
    save_file(buffers, target / f"rank{rank}.safetensors")
    return len(buffers)


def work(rank: int, ranks: int, port: int, case: str, folder: Path, answers: Any) -> None:
    try:
        import torch
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.distributed import parallel_state

        torch.set_num_threads(1)
        os.environ["VLLM_DIST_IDENT"] = f"{os.getppid()}_{port}"
        fit_vllm.choose_kernels(fit_vllm.Case("", experts="TRITON"))
        with set_current_vllm_config(VllmConfig()):
            parallel_state.init_distributed_environment(ranks, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
        answers.put((rank, True, f"{record(case, folder, rank)} buffers"))
        torch.distributed.barrier()
    except Exception as error:  # goes to the table
        traceback.print_exc()
        answers.put((rank, False, f"{type(error).__name__}: {str(error)[:500]}"))


def run(case: str, folder: Path) -> bool:
    ranks = CASES[case][1]
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = context.Queue()
    processes = [context.Process(target=work, args=(rank, ranks, port, case, folder, answers)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=900) for _ in range(ranks)]
    for process in processes:
        process.join(60)
        process.kill()
    right = all(ok for _, ok, _ in found)
    print(f"{'OK' if right else 'FAILED':<7}{case:<24}{sorted(found)[0][2]}", flush=True)
    return right


def main() -> int:
    folder = Path(sys.argv[1])
    for name in ADAPTERS:
        if not (folder / "adapters" / name).exists():
            write_adapter(folder / "adapters" / name, name)
    wanted = sys.argv[2:] or list(CASES)
    right = [run(case, folder) for case in wanted]
    return 0 if all(right) else 1


if __name__ == "__main__":
    raise SystemExit(main())
