"""Makes format_layouts.tar.xz of the recorded quantised layouts, small enough to keep.

    make_format_layouts.py RECORDED/formats format_layouts.tar.xz [--whole]

Of a rank's storages it keeps dtype, shape and a digest (of few bytes: the bytes), before and after vLLM processed them.
Of large packed weights most values become 0, the same ones wherever they lie, so that digests stay those of a copy.
--whole keeps all values.
"""

import hashlib
import io
import json
import lzma
import os
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402

SHOWN = 64
PACKED = ("U8", "I32", "F8_E4M3")
KEPT = bytes(value if (value * 73 + 41) % 256 < 16 else 0 for value in range(256))
ZERO = bytes(256)


def thinned(name, tensor):
    """Weights with few values of theirs, or none."""
    is_weight = name.endswith("weight") and len(tensor.shape) > 1  # of any dtype that is not packed
    is_packed = tensor.dtype in PACKED and "scale" not in name and "zero" not in name
    if WHOLE or not (is_weight or is_packed):
        return tensor
    table = KEPT if is_packed else ZERO
    return safetensors.Tensor(tensor.dtype, tensor.shape, tensor.data.translate(table))


def processed(name, tensor, loaded):
    """A storage after loading. FP8 that was quantised again has what became of the values that were kept."""
    before = loaded.get(name)
    is_new = before is not None and tensor.dtype == "F8_E4M3" and name.endswith("weight")
    if WHOLE or not is_new:
        return thinned(name, tensor)
    source = before.data
    if list(before.shape) != list(tensor.shape) or name.endswith("_proj.weight"):  # linear layers: transposed
        rows, columns = before.shape
        assert list(tensor.shape) == [columns, rows], (name, before.shape, tensor.shape)
        source = bytes(before.data[row * columns + column] for column in range(columns) for row in range(rows))
    data = bytes(byte if KEPT[origin] or origin == 0 else 0 for byte, origin in zip(tensor.data, source))
    return safetensors.Tensor(tensor.dtype, tensor.shape, data)


def described(tensor):
    data = tensor.data
    text = data.hex() if len(data) <= SHOWN else "sha256:" + hashlib.sha256(data).hexdigest()[:16]
    return [tensor.dtype, tensor.shape, text]


def rank_of(folder, rank):
    loaded = safetensors.read(os.path.join(folder, f"rank{rank}.safetensors"))
    result = {"loaded": {name: described(thinned(name, tensor)) for name, tensor in loaded.items()}}
    path = os.path.join(folder, f"rank{rank}_post.safetensors")
    if os.path.exists(path):
        after = {name.removeprefix("attr:"): tensor for name, tensor in safetensors.read(path).items()}
        result["processed"] = {name: described(processed(name, tensor, loaded)) for name, tensor in after.items()}
    return result


def entry_of(recorded, layout):
    entry = {key: layout[key] for key in ("folder", "checkpoint", "layout", "settings")}
    entry["folder"] = entry["folder"].removeprefix("vllm/")
    if "refused" in layout:
        entry["refused"] = layout["refused"]["message"]
        return entry
    entry["never_written"] = layout["never_written"]
    entry["ranks"] = [rank_of(os.path.join(recorded, layout["folder"]), rank) for rank in range(layout["ranks"])]
    return entry


def add(tar, name, data):
    info = tarfile.TarInfo("format_layouts/" + name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main(recorded, archive):
    with open(os.path.join(recorded, "index.json"), encoding="utf-8") as file:
        layouts = [entry_of(recorded, layout) for layout in json.load(file)["layouts"] if layout["side"] == "gen"]
    with tarfile.open(archive, "w:xz", preset=9 | lzma.PRESET_EXTREME) as tar, tempfile.TemporaryDirectory() as work:
        for checkpoint in sorted({layout["checkpoint"] for layout in layouts}):
            folder = os.path.join(recorded, "ckpt", checkpoint)
            tensors = safetensors.read(os.path.join(folder, "model.safetensors"))
            thin = os.path.join(work, "thin.safetensors")
            safetensors.write(thin, {name: thinned(name, tensor) for name, tensor in tensors.items()})
            with open(thin, "rb") as content:
                add(tar, f"ckpt/{checkpoint}/model.safetensors", content.read())
            with open(os.path.join(folder, "config.json"), "rb") as content:
                add(tar, f"ckpt/{checkpoint}/config.json", content.read())
        add(tar, "index.json", json.dumps(layouts, indent=1).encode())


WHOLE = "--whole" in sys.argv
if __name__ == "__main__":
    main(*[word for word in sys.argv[1:] if not word.startswith("--")])
