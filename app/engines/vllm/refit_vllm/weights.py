"""A vLLM model's weights as memory to refit, and what vLLM computes of them afterwards.

vLLM loads a checkpoint into parameters of one layout and lets every layer process them once (process_weights_after_loading). What that
leaves of the loaded layout decides how a layer is refitted:

  as loaded   the parameters are still what was loaded: written in place. If the layer keeps something that it made of them (a packed
              copy of an embedding on a CPU, latent attention's W_UK_T and W_UV), it processes them again after every refit.
  staged      the parameters were transposed, padded, quantised, packed or emptied: refit writes into a copy of the loaded layout (memory of
              its own, kept), and after every refit the layer processes that as vLLM's layerwise reload does, which copies the results to
              where the parameters are.

Parameters never change their address: captured CUDA graphs go on reading them. Which layers are "as loaded" is a list (`_keeps_loaded`) of
what vLLM 0.33 was seen or read to do; everything else is staged, which is right whatever a layer does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import refit
import torch

from refit_vllm import spec

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_DTYPES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}

# Sentences of one complaint that are listed before the rest is counted.
_LISTED = 20


def side(model: torch.nn.Module, vllm_config: VllmConfig) -> tuple[str, dict[str, torch.Tensor]]:
    """Returns this engine as a side, "vllm TP2", and its tensors under vLLM's own names: for a plan, or for a session whose owner sees to
    post-load steps himself. Errors (usage): as of Weights, and layers whose parameters are not in the layout that a checkpoint is loaded
    into, for which `Weights` is needed."""
    weights = Weights(model, vllm_config)
    if weights.staged:
        raise refit.UsageError(
            f"{len(weights.staged)} layers keep their weights in a layout of their kernels, {weights.staged[0].prefix} among them: "
            "use refit_vllm.Weights, and its finish() after every refit"
        )
    return weights.spec, weights.tensors()


class _Staged:
    """A layer that is refitted through a copy of its loaded layout."""

    def __init__(self, prefix: str, layer: torch.nn.Module) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
        from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS

        self.prefix = prefix
        self.layer = layer
        info = get_layerwise_info(layer)
        # Padding is never written by refit and must be zero.
        self.copies = {
            name: torch.zeros(tuple(meta.shape), dtype=meta.dtype, device=info.restore_device)
            for name, meta in info.restore_metadata[0].items()
            if name not in SKIP_TENSORS
        }

    def process(self) -> None:
        """Does what vLLM's layerwise reload does of a layer that has been loaded (reload/layerwise.py, _layerwise_process): loads into new
        tensors, processes them, copies the results to the parameters. An error leaves the layer with its parameters as they were.
        """
        from vllm.model_executor.model_loader.reload import layerwise, meta, utils

        layer: Any = self.layer
        info = layerwise.get_layerwise_info(layer)
        info.kernel_tensors = utils.get_layer_params_buffers(layer)
        info.kernel_non_persistent_buffers = set(layer._non_persistent_buffers_set)
        buffers = info.kernel_tensors[1]
        done = False
        try:
            meta.restore_layer_on_meta(layer, info)
            meta.materialize_layer(layer, info)
            for name, copy in self.copies.items():
                getattr(layer, name).data.copy_(copy)
            for name, old in buffers.items():
                new = layer._buffers.get(name)
                if new is not None and new is not old and new.shape == old.shape:
                    new.copy_(old)
            if hasattr(layer, "_already_called_process_weights_after_loading"):
                del layer._already_called_process_weights_after_loading
            if _is_packed_once(layer.quant_method):
                # vLLM packs experts for CPU kernels only together with a new kernel. No graph on a CPU has captured the old one.
                layer.quant_method.moe_kernel = None
            layer.quant_method.process_weights_after_loading(layer)
            if hasattr(layer, "update_param_tp_status"):
                layer.update_param_tp_status()
            layerwise._copy_and_restore_kernel_tensors(layer, info)
            done = True
        finally:
            if not done:
                layerwise._place_kernel_tensors(layer, info)
            info.reset()


def _is_packed_once(method: Any) -> bool:
    return getattr(getattr(method, "unquantized_backend", None), "name", "") == "CPU"


def _keeps_loaded(layer: Any) -> bool:
    """Returns whether a layer's parameters are what was loaded into them, after vLLM 0.33 has processed them."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.platforms import current_platform

    method = layer.quant_method
    if type(method) in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
        # CUDA: nothing is done. CPU: packed into a kernel's own memory, the parameter emptied or kept. Others pad or transpose in place.
        # A CPU's kernels for causal convolutions pack in place and keep the loaded weight elsewhere.
        packs = not _has_loaded_shapes(layer) or hasattr(layer, "_cpu_unpacked_conv_weight")
        return current_platform.is_cuda() or (current_platform.is_cpu() and not packs)
    if type(method) is UnquantizedFusedMoEMethod:
        # FLASHINFER_CUTLASS wants [up; gate], which a plan with moe_backend=flashinfer_cutlass writes as it is.
        return not current_platform.is_rocm() and method.unquantized_backend.name in ("TRITON", "BATCHED_TRITON", "FLASHINFER_CUTLASS")
    return False


def _has_loaded_shapes(layer: torch.nn.Module) -> bool:
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    loaded = get_layerwise_info(layer).restore_metadata[0]
    return all(name in layer._parameters and layer._parameters[name].shape == meta.shape for name, meta in loaded.items())


class Weights:
    """The weights of one vLLM worker's model. Neither collective nor tied to a session.

    spec    the side that the whole engine is, "vllm TP2xEP2 moe_backend=flashinfer_cutlass"
    staged  layers that are refitted through a copy of the loaded layout
    notes   what a reader should know: bytes of copies, what is left alone and why
    """

    def __init__(self, model: torch.nn.Module, vllm_config: VllmConfig) -> None:
        """`model`: loaded and processed, as a worker has it (worker.get_model()). Errors (usage): everything about the model or its
        configuration that cannot be refitted, all of it listed."""
        from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
        from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
        from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

        self._model = model
        self._vllm_config = vllm_config
        self.staged: list[_Staged] = []
        self._again: list[torch.nn.Module] = []
        refused = spec.refusals(model, vllm_config)
        if not any(layer in LAYERWISE_INFO for layer in model.modules()):
            raise refit.UsageError("vLLM has not recorded how this model was loaded: make it with vLLM's initialize_model")
        for prefix, layer in model.named_modules():
            method = getattr(layer, "quant_method", None)
            if getattr(layer, "is_amx_bmm_enabled", False):
                refused.append(f"{prefix}: latent attention with AMX frees kv_b_proj, which vLLM's own reload cannot restore")
            if not isinstance(method, QuantizeMethodBase) or isinstance(method, BaseKVCacheMethod):
                continue
            backend = getattr(getattr(method, "unquantized_backend", None), "name", "")
            if backend in ("MOONEP", "TPU", "OOT"):
                refused.append(f"{prefix}: vLLM's experts for {backend} cannot be processed again; choose another --moe-backend")
            elif _keeps_loaded(layer):
                if _makes_copies(layer):
                    self._again.append(layer)
            else:
                self.staged.append(_Staged(prefix, layer))
        if refused:
            raise refit.UsageError(_listed(f"vLLM's {type(model).__name__} cannot be refitted as it is configured:", refused))
        loaded = {meta.dtype for layer in self._layers() for meta in LAYERWISE_INFO[layer].restore_metadata[0].values()}
        self.spec = spec.side_text(model, vllm_config, loaded)
        self.notes = spec.notes(vllm_config)
        self._derived = self._derived_names()
        self._wanted: frozenset[str] | None = None
        if self.staged:
            total = sum(copy.nbytes for staged in self.staged for copy in staged.copies.values())
            kinds = sorted({type(staged.layer.quant_method).__name__ for staged in self.staged})
            self.notes.append(
                f"{len(self.staged)} layers ({', '.join(kinds)}) are refitted through copies of the loaded layout: "
                f"{total:,} bytes on this rank"
            )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns where a checkpoint's weights belong at this moment, by vLLM's names: parameters, copies of those of staged layers, and
        persistent buffers; after `fit`, only what the plan brings. Cheap: a session can call it before every refit."""
        staged = {staged.layer: staged.copies for staged in self.staged}
        result: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for prefix, layer in self._model.named_modules():
            named: dict[str, torch.Tensor | None] = {**layer._parameters}
            named.update({name: buffer for name, buffer in layer._buffers.items() if name not in layer._non_persistent_buffers_set})
            named.update(staged.get(layer, {}))
            for name, tensor in named.items():
                full = f"{prefix}.{name}" if prefix else name
                if tensor is None or id(tensor) in seen or full in self._derived:
                    continue
                # Tied layers share a parameter, which is listed under its first name, as by named_parameters.
                seen.add(id(tensor))
                result[full] = tensor
        return result if self._wanted is None else {name: tensor for name, tensor in result.items() if name in self._wanted}

    def fit(self, plan: refit.Plan, gen_rank: int) -> None:
        """Compares the weights with what a plan's gen rank must hold. Errors (usage): all differences, with reasons: what is missing or of
        another shape, dtype or layout, and parameters that the plan does not bring, which would silently keep their old values."""
        self._wanted = None
        tensors = self.tensors()
        parameters = {name for name, _ in self._model.named_parameters()} | {
            f"{staged.prefix}.{name}" for staged in self.staged for name in staged.copies
        }
        wanted = {storage.name: storage for storage in plan.storages("gen", gen_rank)}
        found = []
        for name, storage in wanted.items():
            tensor = tensors.get(name)
            if tensor is None:
                found.append(f"{name}: the plan has it, {list(storage.shape)} {storage.dtype}, and vLLM has not")
                continue
            dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
            if tuple(tensor.shape) != tuple(storage.shape) or dtype != storage.dtype:
                found.append(f"{name}: {list(tensor.shape)} {dtype} in vLLM, {list(storage.shape)} {storage.dtype} in the plan")
            elif not _is_dense(tensor):
                found.append(f"{name}: its rows are padded (strides {list(tensor.stride())})")
        for name in sorted(parameters - wanted.keys() - self._derived):
            found.append(f"{name}: {_why_unknown(name, tensors)}")
        if found:
            raise refit.UsageError(_listed(f"gen rank {gen_rank} ({self.spec}) holds other weights than the plan says:", found))
        self._wanted = frozenset(wanted)

    def finish(self) -> None:
        """Does vLLM's post-load steps with the weights that a refit has brought. Must be called after every refit, before the model runs;
        not collective. Errors: those of vLLM's layers, after which the model must not run until a refit has gone through."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.attention import is_deferred_attention_layer

        dtype = self._vllm_config.model_config.dtype
        with torch.no_grad(), set_current_vllm_config(self._vllm_config):
            for staged in self.staged:
                staged.process()
            for layer in self._again:
                layer.quant_method.process_weights_after_loading(layer)
            # Attention is last: it decompresses what linear layers hold (vLLM's process_weights_after_loading has the same order).
            for layer in self._model.modules():
                if is_deferred_attention_layer(layer):
                    layer.process_weights_after_loading(dtype)
            whole: Callable[[], None] | None = getattr(self._model, "process_weights_after_loading", None)
            if whole is not None:
                whole()

    def _layers(self) -> list[torch.nn.Module]:
        from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

        return [layer for layer in self._model.modules() if layer in LAYERWISE_INFO]

    def _derived_names(self) -> set[str]:
        """Returns the names of parameters that were not there to be loaded: layers that process weights in `finish` made them of others."""
        from vllm.model_executor.layers.attention import is_deferred_attention_layer
        from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO
        from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS

        staged = {staged.layer for staged in self.staged}
        result = set()
        for prefix, layer in self._model.named_modules():
            if layer not in staged and not is_deferred_attention_layer(layer):
                continue
            loaded = LAYERWISE_INFO[layer].restore_metadata[0] if layer in LAYERWISE_INFO else {}
            for name in layer._parameters:
                if name not in loaded and name not in SKIP_TENSORS:
                    result.add(f"{prefix}.{name}" if prefix else name)
        return result


def _makes_copies(layer: Any) -> bool:
    """Returns whether a layer whose parameters are as loaded keeps copies of them: a CPU's kernels do."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu()) and hasattr(layer, "cpu_linear")


def _is_dense(tensor: torch.Tensor) -> bool:
    """Returns whether the elements lie side by side, with dimensions in any order."""
    expected = 1
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent == 1:
            continue
        if stride != expected:
            return False
        expected *= extent
    return True


def _why_unknown(name: str, tensors: dict[str, torch.Tensor]) -> str:
    if name.endswith("lm_head.weight"):
        return (
            "config.json ties it to the embedding, but the checkpoint that vLLM loaded has one of its own; load one without, or one whose "
            "config.json says tie_word_embeddings = false"
        )
    shape = list(tensors[name].shape) if name in tensors else "?"
    return f"a parameter {shape} that the plan does not bring, so that it would keep its old values"


def _listed(head: str, sentences: list[str]) -> str:
    rest = len(sentences) - _LISTED
    lines = [head, *(f"  {text}" for text in sentences[:_LISTED])]
    if rest > 0:
        lines.append(f"  and {rest} more")
    return "\n".join(lines)
