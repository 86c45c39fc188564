"""A minimal reader and writer of safetensors files, with the standard library only."""

import json
import mmap
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple
    data: bytes  # little endian, row major


def read(path):
    """name -> Tensor of a file; `__metadata__` is left out."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        (length,) = struct.unpack("<Q", view[:8])
        header = json.loads(view[8 : 8 + length])
        header.pop("__metadata__", None)
        result = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if end > len(view):
                raise ValueError(f"{path}: {name} ends at byte {end}, but the file has {len(view)}")
            result[name] = Tensor(entry["dtype"], tuple(entry["shape"]), view[begin:end])
        return result


def write(path, tensors, metadata=None):
    """name -> Tensor, one after the other in the given order; `metadata`: name -> text."""
    header = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        end = at + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data)
