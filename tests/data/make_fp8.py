"""Makes fp8.tar.xz, the recorded FP8 layouts small enough to keep: most weights are zeros, scales stay.

    make_fp8.py RECORDED/fp8 fp8.tar.xz
"""

import io
import json
import lzma
import os
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402

LEFT_OUT = ("qwen3_moe_mxfp8", "qwen3_mxfp8", "qwen3_mxfp8_ct", "qwen3_mxfp8_plain")  # like deepseek_v3_mxfp8
SMALL = 4096  # bytes; norms and small scales stay as they are
WEIGHTS = ("BF16", "F8_E4M3")
PADDED = "qwen3_moe_fp8_384"  # its experts' bytes keep their lowest bit, so that padding can be told from weights


def thinned(checkpoint, name, tensor):
    if tensor.dtype not in WEIGHTS or len(tensor.data) <= SMALL:
        return tensor
    keep = 1 if checkpoint == PADDED and "experts" in name else 0
    kept = bytes(byte & keep for byte in range(256))
    return safetensors.Tensor(tensor.dtype, tensor.shape, tensor.data.translate(kept))


def add(tar, name, data):
    info = tarfile.TarInfo("fp8/" + name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main(recorded, archive):
    with open(os.path.join(recorded, "index.json")) as file:
        layouts = [layout for layout in json.load(file) if layout["checkpoint"] not in LEFT_OUT]
    with tarfile.open(archive, "w:xz", preset=9 | lzma.PRESET_EXTREME) as tar, tempfile.TemporaryDirectory() as work:
        files = set()
        for layout in layouts:
            checkpoint = layout["checkpoint"]
            files.add((checkpoint, f"ckpt/{checkpoint}/model.safetensors"))
            if "refused" not in layout:
                files |= {(checkpoint, f"{layout['folder']}/rank{rank}.safetensors") for rank in range(layout["ranks"])}
        for checkpoint, path in sorted(files):
            tensors = safetensors.read(os.path.join(recorded, path))
            thin = os.path.join(work, "thin.safetensors")
            safetensors.write(thin, {name: thinned(checkpoint, name, tensor) for name, tensor in tensors.items()})
            with open(thin, "rb") as content:
                add(tar, path, content.read())
        for checkpoint in sorted({checkpoint for checkpoint, _ in files}):
            path = f"ckpt/{checkpoint}/config.json"
            with open(os.path.join(recorded, path), "rb") as content:
                add(tar, path, content.read())
        add(tar, "index.json", json.dumps(layouts, indent=1).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
