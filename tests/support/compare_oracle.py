"""Compares a folder of dumps with what a real engine held, element by element.

    compare_oracle.py DUMP_FOLDER train|gen ORACLE_FOLDER

Every name of either side is compared, but for 0-dimensional `*_scale` buffers (an engine's attention scales, which come
from no checkpoint). Shape, dtype and every bit must agree.
"""

import glob
import os
import re
import sys

import safetensors

ELEMENT_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2}


def compared(tensors):
    return {name: tensor for name, tensor in tensors.items() if tensor.shape or not name.endswith("_scale")}


def differing_elements(ours, theirs, size):
    """Indices of the elements whose bytes differ."""
    return [i // size for i in range(0, len(theirs), size) if ours[i : i + size] != theirs[i : i + size]]


def compare_tensor(ours, theirs):
    """What is wrong with one tensor, or None."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return f"is {ours.dtype} {list(ours.shape)}, the engine has {theirs.dtype} {list(theirs.shape)}"
    if len(ours.data) != len(theirs.data):
        return f"has {len(ours.data)} bytes, the engine's {len(theirs.data)}"
    if ours.data == theirs.data:
        return None
    size = ELEMENT_BYTES.get(theirs.dtype, 1)
    wrong = differing_elements(ours.data, theirs.data, size)
    return f"{len(wrong)} of {len(theirs.data) // size} elements differ, first at flat index {wrong[0]}"


def compare_rank(dump_file, oracle_file):
    ours, theirs = compared(safetensors.read(dump_file)), compared(safetensors.read(oracle_file))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours:
            yield f"{name}: missing in the dump"
        elif name not in theirs:
            yield f"{name}: the engine has no such parameter"
        else:
            message = compare_tensor(ours[name], theirs[name])
            if message:
                yield f"{name}: {message}"


def key_of(path):
    """The rank and model chunk of a file of either kind; the first chunk may be left out of its name."""
    rank, chunk = re.search(r"rank-?(\d+)(?:\.chunk(\d+))?\.safetensors$", path).groups()
    return int(rank), int(chunk or 0)


def compare_folders(dump_folder, side, oracle_folder):
    """All differences between the ranks of one side and the engine's; [] means equal."""
    dumps = {key_of(path): path for path in glob.glob(os.path.join(dump_folder, f"{side}-rank-*.safetensors"))}
    oracles = {key_of(path): path for path in glob.glob(os.path.join(oracle_folder, "rank*.safetensors"))}
    if not oracles or dumps.keys() != oracles.keys():
        return [f"{dump_folder}: ranks and chunks {sorted(dumps)}, the engine had {sorted(oracles)} ({oracle_folder})"]
    return [
        f"{side} rank {key[0]}{f' chunk {key[1]}' if key[1] else ''}: {message}"
        for key in sorted(oracles)
        for message in compare_rank(dumps[key], oracles[key])
    ]


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    differences = compare_folders(*sys.argv[1:])
    print("\n".join(differences) if differences else "equal")
    sys.exit(1 if differences else 0)
