"""SGLang's own weight checker (sglang.srt.utils.weight_checker) without SGLang's engine: its source files are executed as they are, and what they
import of the rest of SGLang beside the hashes is left empty. Torch on a CPU is enough; the hash for GPUs runs in Triton's interpreter.

    pip download --no-deps sglang && unzip sglang-*.whl -d FOLDER
    checker = SglangChecker(Path(FOLDER))
    answer = checker.checksum({"model.norm.weight": tensor, ...}, on_gpu=False, tp_rank=0, tp_size=1)"""

from __future__ import annotations

import ast
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch


class OnGpu(torch.Tensor):
    """A tensor that calls itself one of a GPU, which the hash for GPUs insists on."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def cuda(self) -> OnGpu:  # type: ignore[override]
        return self


class _Fp8Method:
    block_quant = True
    use_mxfp8 = False


class _Other:
    """In the place of classes of quantisation that no model here has."""


class SglangChecker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stub("sglang.srt.mem_cache.storage.mmap.mmap_allocator", alloc_mmap=None)
        self._stub("sglang.srt.platforms", current_platform=types.SimpleNamespace(synchronize=lambda: None))
        self._stub("sglang.srt.runtime_context", get_parallel=lambda: self.parallel)
        hashes = self._execute("sglang/kernels/ops/memory/gpu_tensor_hash.py", "sglang.kernels.ops.memory.gpu_tensor_hash")
        self._stub("sglang.srt.managers.mm_utils")
        self._functions("sglang/srt/managers/mm_utils.py", {"data_hash", "tensor_hash"}, sys.modules["sglang.srt.managers.mm_utils"])
        sys.modules["sglang.srt.managers.mm_utils"].gpu_tensor_hash = hashes.gpu_tensor_hash  # type: ignore[attr-defined]
        self._stub("sglang.srt.layers.quantization.fp8", Fp8LinearMethod=_Fp8Method, Fp8MoEMethod=_Fp8Method, unshuffle_fp8_weight=None)
        self._stub("sglang.srt.layers.quantization.fp8_utils", inverse_transform_scale_ue8m0=None)
        self._functions(
            "sglang/srt/layers/quantization/fp8_utils.py", {"block_quant_dequant"}, sys.modules["sglang.srt.layers.quantization.fp8_utils"]
        )
        self._stub("sglang.srt.layers.quantization.modelopt_quant", ModelOptFp4LinearMethod=_Other, ModelOptNvFp4FusedMoEMethod=_Other)
        self._execute("sglang/srt/utils/weight_checker_comparator.py", "sglang.srt.utils.weight_checker_comparator")
        self.module = self._execute("sglang/srt/utils/weight_checker.py", "sglang.srt.utils.weight_checker")

    def checksum(self, tensors: dict[str, torch.Tensor], on_gpu: bool, **placement: int) -> dict[str, Any]:
        """Returns the checker's answer for a model that has these parameters: an element of "ranks" in that of /weights_checker."""
        defaults = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "dp_rank": 0, "attn_dp_size": 1}
        self.parallel = types.SimpleNamespace(**(defaults | placement))
        model = torch.nn.Module()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            module = model
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            value = tensor.as_subclass(OnGpu) if on_gpu else tensor
            parameter = torch.nn.Parameter(value, requires_grad=False)
            module.register_parameter(last, parameter)
            if last.endswith("weight_scale_inv"):
                module.quant_method = _Fp8Method()
        checker = self.module.WeightChecker(get_model=lambda: model)
        payload = checker.handle("checksum", role="target")
        payload["parallelism_info"] = [payload["parallelism_info"]]  # as _merge_checksum_payloads lists the roles'
        return payload

    @staticmethod
    def _stub(name: str, **names: Any) -> None:
        parts = name.split(".")
        for i in range(1, len(parts)):
            package = ".".join(parts[:i])
            if package not in sys.modules:
                sys.modules[package] = types.ModuleType(package)
                sys.modules[package].__path__ = []  # type: ignore[attr-defined]
        module = types.ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module

    def _execute(self, path: str, name: str) -> types.ModuleType:
        """Executes a whole file of SGLang's."""
        self._stub(name)
        module = sys.modules[name]
        module.__file__ = str(self.folder / path)  # Triton reads its kernels' source
        exec(compile((self.folder / path).read_text(), module.__file__, "exec"), vars(module))
        return module

    def _functions(self, path: str, names: set[str], module: types.ModuleType) -> None:
        """Executes functions of a file whose imports need a GPU."""
        tree = ast.parse((self.folder / path).read_text())
        tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
        assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} == names, f"{path} lacks some of {names}"
        import hashlib

        vars(module).update(torch=torch, hashlib=hashlib, List=list)
        exec(compile(tree, str(self.folder / path), "exec"), vars(module))
