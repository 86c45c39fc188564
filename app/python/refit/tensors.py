"""Where a tensor lies and what it is: torch's tensors, numpy's arrays, and whatever speaks DLPack.

Nothing is copied, and neither torch nor numpy is imported: a tensor is known by the attributes it has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from refit import _refit
from refit.errors import Error, UnavailableError, UsageError

# Names of dtypes in safetensors' files by those of torch, numpy and ml_dtypes, which are the same.
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

# DLPack's DLDataTypeCode and number of bits (dlpack.h 1.1).
_DLPACK_DTYPES = {
    (2, 64): "F64", (2, 32): "F32", (2, 16): "F16", (4, 16): "BF16", (10, 8): "F8_E4M3", (12, 8): "F8_E5M2", (14, 8): "F8_E8M0",
    (0, 64): "I64", (0, 32): "I32", (0, 16): "I16", (0, 8): "I8", (1, 64): "U64", (1, 32): "U32", (1, 16): "U16", (1, 8): "U8",
    (6, 8): "BOOL",
}  # fmt: skip
_DLPACK_CPU = (1, 3)  # kDLCPU, kDLCUDAHost
_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class Memory(NamedTuple):
    """A tensor as the C library takes it, and where its memory is."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    dtype: str
    device: str  # "cpu", "cuda:0"


def describe(name: str, tensor: Any, *, written: bool) -> Memory:
    """Says where `tensor` lies. `written`: refit writes to it, so it must not be read-only.

    Errors: UsageError, with the name: no strided memory of its own, a dtype that refit does not move, read-only;
    UnavailableError: on a device that this build does not reach.
    """
    try:
        if hasattr(tensor, "data_ptr"):
            memory = _of_torch(tensor)
        elif hasattr(tensor, "__array_interface__"):
            memory = _of_numpy(tensor, written)
        elif hasattr(tensor, "__dlpack__"):
            memory = _of_dlpack(tensor, written)
        else:
            raise _Refused(f"is of type {type(tensor).__name__}: give a torch tensor, a numpy array or an object with DLPack")
    except Error:
        raise
    except _Refused as refused:
        raise UsageError(f"{name} {refused}", tensor=name) from None
    except Exception as error:
        raise UsageError(f"{name}: its memory cannot be read: {error}", tensor=name) from error
    if memory.device != "cpu" and not (memory.device.startswith("cuda") and _refit.cuda):
        raise UnavailableError(
            f"{name} lies on {memory.device}, and this refit is built for "
            + ("CPUs and CUDA" if _refit.cuda else "CPUs: build it with -DREFIT_ENABLE_CUDA=ON"),
            tensor=name,
        )
    return memory


def address(tensor: Any) -> int:
    """The address of a tensor that `describe` took: cheap, to see whether it moved."""
    if hasattr(tensor, "data_ptr"):
        return int(tensor.data_ptr())
    if hasattr(tensor, "__array_interface__"):
        return int(tensor.__array_interface__["data"][0])
    return _refit.dlpack(tensor)[0]


def wait_for(devices: Iterable[str]) -> None:
    """Waits until torch's work on these devices has ended, where torch is what this process uses."""
    torch = sys.modules.get("torch")
    if torch is not None:
        for device in devices:
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)


class _Refused(Exception):
    """What follows a tensor's name in the error."""


def _dtype(name: str) -> str:
    if name not in _DTYPES:
        raise _Refused(f"has dtype {name}, which refit does not move: give a view of another one, such as uint8")
    return _DTYPES[name]


def _of_torch(tensor: Any) -> Memory:
    if hasattr(tensor, "placements"):
        raise _Refused("is a DTensor: give its local tensor, as refit.fsdp.side does")
    if str(tensor.layout) != "torch.strided":
        raise _Refused(f"has layout {tensor.layout}: only strided tensors have elements in one place")
    if tensor.is_quantized:
        raise _Refused("is a quantised tensor of torch: give its int_repr() and scales under the engine's names")
    device = tensor.device
    if device.type == "meta":
        raise _Refused("is on the meta device and has no memory: materialise it first (to_empty)")
    if tensor.is_neg():
        raise _Refused("is a view that negates: call resolve_neg() first")
    at = int(tensor.data_ptr())
    if at == 0 and tensor.numel() > 0:
        raise _Refused("has no memory: its storage was freed, or it wraps other tensors")
    where = device.type if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    return Memory(at, tuple(tensor.shape), tuple(tensor.stride()), _dtype(str(tensor.dtype).removeprefix("torch.")), where)


def _of_numpy(array: Any, written: bool) -> Memory:
    interface = array.__array_interface__
    at, read_only = interface["data"]
    dtype = array.dtype
    if not dtype.isnative:
        raise _Refused(f"is stored in the other byte order ({interface['typestr']}): give array.astype(array.dtype.newbyteorder('='))")
    if written and read_only:
        raise _Refused("is read-only, and refit writes to it: give an array that owns its memory, or set flags.writeable")
    size = dtype.itemsize
    if any(stride % size for stride in array.strides):
        raise _Refused(f"has strides of {array.strides} bytes, which are no whole elements of {size}")
    return Memory(at, tuple(array.shape), tuple(stride // size for stride in array.strides), _dtype(dtype.name), "cpu")


def _of_dlpack(exporter: Any, written: bool) -> Memory:
    at, shape, strides, code, bits, lanes, kind, number, writable = _refit.dlpack(exporter)
    if written and not writable:
        raise _Refused("is read-only, and refit writes to it")
    if lanes != 1 or (code, bits) not in _DLPACK_DTYPES:
        raise _Refused(f"has DLPack's dtype code {code} of {bits} bits and {lanes} lanes, which refit does not move")
    if kind in _DLPACK_CPU:
        device = "cpu"
    elif kind in _DLPACK_CUDA:
        device = f"cuda:{number}"
    else:
        device = f"DLPack's device {kind}:{number}"
    return Memory(at, shape, strides, _DLPACK_DTYPES[code, bits], device)
