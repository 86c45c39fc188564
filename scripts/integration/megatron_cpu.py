"""Lets real Megatron-Core, Megatron-Bridge and Transformer Engine train on a machine without a GPU.

    import megatron_cpu
    megatron_cpu.install()                 # before anything of Megatron is imported
    with megatron_cpu.devices(): ...       # around everything that makes tensors

What is replaced, and nothing else; names, shapes, layouts, process groups, schedules, gradients' reductions and the optimiser's steps
are those of the packages:

1. `transformer_engine_torch`, TE's compiled kernels, is an empty module. TE's own Python classes make the parameters.
2. The `forward` of five TE modules, which would call those kernels, is written in torch, with Megatron's own
   collectives for tensor parallelism: Linear, LayerNormLinear, GroupedLinear, RMSNorm, and DotProductAttention.
   The router's product is torch's, too, as where TE is absent.
3. TE's fused optimiser kernels: Megatron falls back to torch.optim.AdamW and to its own loops over tensors, as it does where TE is absent.
4. Questions about the device: torch.cuda answers as one GPU would, "cuda" means the CPU, streams and events do nothing,
   `Tensor.type()` says torch.cuda.* (Megatron-Core's optimiser asks for it by that name). Random-number states of devices are not kept.
"""

import contextlib
import enum
import sys
import types


class _Absent:
    """A class of the kernels: it can be named, not made."""

    def __init__(self, *arguments, **keywords):
        raise RuntimeError("the kernels of Transformer Engine are absent here")


class _Enumerators(type):
    """Any name of an enumeration is a number of its own."""

    def __getattr__(cls, name):
        if name == "__members__":
            return dict(cls.values)
        if name.startswith("__"):
            raise AttributeError(name)
        return cls.values.setdefault(name, len(cls.values))


class _Kernels(types.ModuleType):
    """Stands for transformer_engine_torch. The answers are those that TE asks for while it is imported."""

    __all__ = ()
    __path__ = ()
    ANSWERS = {"get_cublasLt_version": 130000, "get_cudnn_version": 91000, "device_supports_multicast": False,
               "ubuf_built_with_mpi": False, "get_num_cublas_streams": 4}  # fmt: skip

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            value = _Enumerators(name, (_Absent,), {"values": {}, "__module__": self.__name__})
        else:
            value = self.function(name)
        setattr(self, name, value)
        return value

    def function(self, name):
        def kernel(*arguments, **keywords):
            if name in self.ANSWERS:
                return self.ANSWERS[name]
            raise RuntimeError(f"the kernel {name} of Transformer Engine is absent here")

        return kernel


class _Nothing:
    """A stream or an event."""

    def __init__(self, *arguments, **keywords):
        pass

    def __getattr__(self, name):
        return lambda *arguments, **keywords: self


def install():
    """Imports Transformer Engine and Megatron-Core with all replacements."""
    _answer_for_devices()
    kernels = _Kernels("transformer_engine_torch")
    kernels.DType = enum.IntEnum("DType", {"kByte": 0, "kInt32": 2, "kFloat32": 4, "kFloat16": 5, "kBFloat16": 6,
                                           "kFloat8E4M3": 7, "kFloat8E5M2": 8, "kFloat4E2M1": 10})  # fmt: skip
    sys.modules["transformer_engine_torch"] = kernels
    import transformer_engine.common

    transformer_engine.common.load_framework_extension = lambda framework: None
    from megatron.core.tensor_parallel import random

    random.CudaRNGStatesTracker.fork = lambda self, name="": contextlib.nullcontext()
    random.CudaRNGStatesTracker.add = lambda self, name, seed: self.states_.__setitem__(name, None)
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    def on_host(tensor, as_numpy=False, record_stream=False):
        return tensor.numpy() if as_numpy and hasattr(tensor, "numpy") else tensor

    dispatcher.maybe_move_tensor_to_cpu = on_host  # numbers of tokens, which Megatron-Core copies from the GPU as numpy's
    _compute_in_torch()
    _optimise_in_torch()


def _answer_for_devices():
    import torch

    one = types.SimpleNamespace(major=9, minor=0, name="CPU", total_memory=1 << 33, multi_processor_count=1)
    answers = {
        "is_available": True, "current_device": "cpu", "device_count": 1, "get_device_properties": one,
        "get_device_capability": (9, 0), "set_device": None, "synchronize": None, "empty_cache": None,
        "set_rng_state": None, "manual_seed": None, "manual_seed_all": None, "is_current_stream_capturing": False,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *arguments, answer=answer, **keywords: answer)
    torch.cuda.get_rng_state = lambda *arguments, **keywords: torch.get_rng_state()
    torch.cuda.Stream = torch.cuda.Event = _Nothing
    torch.cuda.current_stream = torch.cuda.default_stream = lambda *arguments, **keywords: _Nothing()
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    for name in ("range_push", "range_pop", "mark"):
        setattr(torch.cuda.nvtx, name, lambda *arguments, **keywords: None)
    for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all"):
        setattr(torch.cuda.random, name, getattr(torch.cuda, name))
    torch.Tensor.cuda = lambda self, *arguments, **keywords: self
    torch.nn.Module.cuda = lambda self, *arguments, **keywords: self
    torch_type = torch.Tensor.type

    def type_on_device(self, *arguments, **keywords):
        if arguments or keywords:
            return torch_type(self, *arguments, **keywords)
        return "torch.cuda." + torch_type(self).rpartition(".")[2]

    torch.Tensor.type = type_on_device
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda self: None  # asks the GPU's stream


def devices():
    """Returns a mode in which functions that are given a CUDA device take the CPU."""
    import torch
    from torch.overrides import TorchFunctionMode

    def is_cuda(value):
        if isinstance(value, torch.device):
            return value.type == "cuda"
        return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))

    class ToCpu(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            keywords = dict(keywords or {})
            if is_cuda(keywords.get("device")):
                keywords["device"] = "cpu"
            return function(*("cpu" if is_cuda(value) else value for value in arguments), **keywords)

    return ToCpu()


def _compute_in_torch():
    """The numerics of TE's modules: the same sums in float32 or bfloat16 as a reader of TE's documentation would write them."""
    import torch
    import transformer_engine.pytorch as te
    from megatron.core.tensor_parallel import mappings
    from megatron.core.transformer.moe import moe_utils
    from torch.nn import functional

    def normalised(module, input, weight):
        if getattr(module, "normalization", "RMSNorm") != "RMSNorm":
            raise NotImplementedError(f"{type(module).__name__} with {module.normalization}; only RMSNorm is written here")
        gamma = weight.float() + 1 if module.zero_centered_gamma else weight.float()
        wide = input.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.eps) * gamma).to(input.dtype)

    def before(module, input):
        """What tensor parallelism does to the input of columns."""
        if module.parallel_mode != "column" or module.tp_size == 1:
            return input
        if module.sequence_parallel:
            return mappings.gather_from_sequence_parallel_region(input, group=module.tp_group)
        return mappings.copy_to_tensor_model_parallel_region(input, group=module.tp_group)

    def after(module, output):
        """What tensor parallelism does to the output of rows."""
        if module.parallel_mode != "row" or module.tp_size == 1:
            return output
        if module.sequence_parallel:
            return mappings.reduce_scatter_to_sequence_parallel_region(output, group=module.tp_group)
        return mappings.reduce_from_tensor_model_parallel_region(output, group=module.tp_group)

    def product(module, input):
        output = after(module, functional.linear(before(module, input), module.weight))
        bias = module.bias if module.use_bias else None
        if bias is not None and module.apply_bias:
            output = output + bias
        return (output, bias) if module.return_bias else output

    def linear(self, inp, is_first_microbatch=None, **keywords):
        return product(self, inp)

    def layernorm_linear(self, inp, is_first_microbatch=None, **keywords):
        if self.return_layernorm_output:
            raise NotImplementedError("LayerNormLinear that returns its norm's output is not written here")
        return product(self, normalised(self, inp, self.layer_norm_weight))

    def grouped_linear(self, inp, m_splits, is_first_microbatch=None, **keywords):
        if self.use_bias or self.tp_size > 1:
            raise NotImplementedError("GroupedLinear with biases or tensor parallelism is not written here")
        parts = torch.split(inp, [int(rows) for rows in m_splits])
        outputs = [functional.linear(part, getattr(self, f"weight{i}")) for i, part in enumerate(parts)]
        output = torch.cat(outputs)
        return (output, None) if self.return_bias else output

    def rmsnorm(self, input):
        return normalised(self, input, self.weight)

    def attention(self, query, key, value, attention_mask=None, attn_mask_type=None, **keywords):
        """[sequence, batch, heads, head_dim], causal."""
        if "causal" not in str(attn_mask_type):
            raise NotImplementedError(f"attention with mask {attn_mask_type} is not written here")
        heads = [tensor.permute(1, 2, 0, 3) for tensor in (query, key, value)]
        output = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True, scale=self.softmax_scale)
        return output.permute(2, 0, 1, 3).flatten(2)

    te.Linear.forward = linear
    te.LayerNormLinear.forward = layernorm_linear
    te.GroupedLinear.forward = grouped_linear
    te.RMSNorm.forward = rmsnorm
    te.DotProductAttention.forward = attention
    moe_utils.te_general_gemm = None


def _optimise_in_torch():
    import megatron.core.optimizer
    import torch
    from megatron.core import utils
    from megatron.core.optimizer import clip_grads, optimizer

    megatron.core.optimizer.Adam = torch.optim.AdamW
    megatron.core.optimizer.USING_PYTORCH_OPTIMIZER = True
    for module in (clip_grads, optimizer):
        module.multi_tensor_applier = utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = utils.local_multi_tensor_scale
    clip_grads.l2_norm_impl = utils.local_multi_tensor_l2_norm
    clip_grads.multi_tensor_scale_tensor_impl = None
