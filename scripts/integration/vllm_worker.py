"""The worker extension of the integration test: refit's, and comparisons with what vLLM's own loader makes of a checkpoint.

`engine_vllm.py` runs it in vLLM's own workers (LLM) or in processes of its own (`Process`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from refit_vllm import Refitter
from refit_vllm.worker import RefitWorker


class CheckedWorker(RefitWorker):
    """RefitWorker with checks. Methods named check_* are collective over the engine's workers."""

    def _connected(self) -> Refitter:
        """Returns the extension's connection, or that of vLLM's weight transfer engine."""
        engine = getattr(self, "weight_transfer_engine", None)
        if engine is not None and engine._refitter is not None:
            return engine._refitter
        return super()._connected()

    def check_compare(self, folder: str) -> dict[str, Any]:
        """Compares every parameter and persistent buffer of this worker, bit for bit, with those of another instance of the model that
        vLLM's own loader has filled from `folder`: first as loaded, then as processed for the kernels. Returns counts and the first names
        that differ."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.utils import process_weights_after_loading

        weights = self._connected().weights
        config, reference = _load(folder, self.vllm_config)
        counts = {"tensors": 0, "elements": 0, "tensors_wrong": 0, "elements_wrong": 0}
        wrong: list[str] = []
        loaded = {name: parameter.data for name, parameter in reference.named_parameters()}
        _compare(counts, wrong, weights.tensors(), loaded, "as loaded")
        with set_current_vllm_config(config):
            process_weights_after_loading(reference, config.model_config, torch.device("cpu"))
        # Attention's scales are persistent buffers, which loading leaves alone.
        _compare(counts, wrong, dict(state(self.get_model())), dict(state(reference)), "as processed")
        return {**counts, "first_wrong": wrong[:5]}

    def check_addresses(self) -> list[int]:
        """Returns where the parameters are: captured graphs would go on reading there."""
        return [parameter.data_ptr() for parameter in self.get_model().parameters()]

    def check_outputs(self, folder: str) -> dict[str, Any]:
        """Runs every linear layer of this worker, and the same layer of an instance that vLLM's own loader fills from `folder`, on the same
        input: packed copies that a kernel keeps outside of parameters show themselves only so. Returns counts of layers."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.model_loader.utils import process_weights_after_loading

        config, reference = _load(folder, self.vllm_config)
        with torch.no_grad(), set_current_vllm_config(config):
            process_weights_after_loading(reference, config.model_config, torch.device("cpu"))
            mine = {name: layer for name, layer in self.get_model().named_modules() if isinstance(layer, LinearBase)}
            theirs = {name: layer for name, layer in reference.named_modules() if isinstance(layer, LinearBase)}
            wrong = [name for name, layer in mine.items() if not torch.equal(_output(layer), _output(theirs[name]))]
        return {"layers": len(mine), "layers_wrong": len(wrong), "first_wrong": wrong[:5]}

    def check_tensors(self) -> dict[str, torch.Tensor]:
        """Returns copies of this worker's weights in the layout in which a checkpoint is loaded."""
        weights = self._connected().weights
        return {name: tensor.detach().clone() for name, tensor in weights.tensors().items() if tensor.dim() > 0}


class Process(CheckedWorker):
    """A worker without vLLM's engine around it: one process of a tensor-parallel group over gloo, with vLLM's own model, loader and
    post-load steps. It cannot run a forward pass."""

    def __init__(self, rank: int, ranks: int, port: int, arguments: dict[str, Any]) -> None:
        """`arguments`: of vLLM's EngineArgs."""
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.distributed import parallel_state
        from vllm.engine.arg_utils import EngineArgs

        torch.set_num_threads(1)
        # vLLM's executors set it for the shared memory of their workers.
        os.environ.setdefault("VLLM_DIST_IDENT", f"{os.getppid()}_{port}")
        allow_cuda_experts()
        with set_current_vllm_config(VllmConfig()):
            parallel_state.init_distributed_environment(ranks, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
        self.vllm_config = EngineArgs(**arguments).create_engine_config()
        self.vllm_config.parallel_config.rank = rank
        with set_current_vllm_config(self.vllm_config):
            parallel_state.ensure_model_parallel_initialized(ranks, 1)
            from vllm.model_executor.model_loader import get_model

            self._model = get_model(vllm_config=self.vllm_config)

    def get_model(self) -> torch.nn.Module:
        return self._model


def allow_cuda_experts() -> None:
    """Lets the CPU platform of a wheel without kernels for CPUs hold experts as CUDA's Triton kernels want them, which is as loaded: the
    only change to vLLM here. Which parameters there are, and what the loader writes, is vLLM's."""
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    if hasattr(torch.ops._C, "prepack_moe_weight"):
        return
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method
    from vllm.model_executor.layers.fused_moe.oracle import unquantized

    triton = unquantized.UnquantizedMoeBackend.TRITON
    unquantized_fused_moe_method.select_unquantized_moe_backend = lambda moe_config: (triton, unquantized.backend_to_kernel_cls(triton)[0])


def _load(folder: str, like: Any) -> tuple[Any, torch.nn.Module]:
    """Makes another instance of the model and lets vLLM's own loader fill it from `folder`. Returns its configuration and the model, which
    has not been processed yet."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    parallel = like.parallel_config
    arguments = engine_arguments(folder, parallel.tensor_parallel_size, parallel.enable_expert_parallel)
    config = EngineArgs(**arguments).create_engine_config()
    config.parallel_config.rank = parallel.rank
    with set_current_vllm_config(config), torch.device("cpu"), set_default_torch_dtype(config.model_config.dtype):
        model = initialize_model(config)
        # Whatever the loader did not write would not equal anything.
        for parameter in model.parameters():
            parameter.data.fill_(-1)
        get_model_loader(config.load_config).load_weights(model, config.model_config)
    return config, model


def engine_arguments(folder: str, ranks: int, expert_parallel: bool) -> dict[str, Any]:
    """Returns the arguments of vLLM's EngineArgs, and of LLM."""
    return {
        "model": os.path.abspath(folder),
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "tensor_parallel_size": ranks,
        "enable_expert_parallel": expert_parallel,
        "distributed_executor_backend": "mp" if ranks > 1 else None,
        "enforce_eager": True,
        "load_format": "safetensors",
        "max_model_len": 128,
        "max_num_seqs": 4,
    }


def state(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields parameters and persistent buffers."""
    yield from ((name, parameter.data) for name, parameter in model.named_parameters())
    parameters = {name for name, _ in model.named_parameters()}
    yield from (
        (name, tensor) for name, tensor in model.state_dict().items() if name not in parameters and isinstance(tensor, torch.Tensor)
    )


def _compare(counts: dict[str, int], wrong: list[str], mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], form: str) -> None:
    """Compares all of `theirs`, bit for bit."""
    for name, expected in theirs.items():
        counts["tensors"] += 1
        counts["elements"] += expected.numel()
        found = mine.get(name)
        differing = expected.numel() if found is None else differing_elements(found, expected)
        if differing > 0 or found is None:
            counts["tensors_wrong"] += 1
            counts["elements_wrong"] += differing
            wrong.append(f"{name} ({form})")


def differing_elements(found: torch.Tensor, expected: torch.Tensor) -> int:
    """Returns how many elements differ in their bits: all, where shapes or dtypes do."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return max(expected.numel(), 1)
    return int((_bits(found) != _bits(expected)).any(dim=-1).sum())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Returns [elements, bytes of one]."""
    return tensor.detach().contiguous().reshape(-1, 1).view(torch.uint8).reshape(tensor.numel(), tensor.element_size())


def _output(layer: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(
        3, layer.input_size_per_partition if hasattr(layer, "input_size_per_partition") else layer.input_size, generator=generator
    )
    return layer.quant_method.apply(layer, rows.to(layer.params_dtype), None)
