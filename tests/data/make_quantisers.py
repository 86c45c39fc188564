"""Makes quantisers.tar.xz, a part of the recorded quantisers small enough to keep: without the inputs that only add volume.

    make_quantisers.py RECORDED/quantisers quantisers.tar.xz
"""

import io
import os
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402

IMPLEMENTATIONS = ("nemo_rl_block", "nemo_rl_block_pow2", "te_reference", "te_reference_pow2", "vllm_per_block_cast",
                   "vllm_per_block_cast_ue8m0", "vllm_mxfp8", "nemo_rl_mxfp8")
LEFT_OUT = ("f32.magnitudes", "f32.normal", "bf16.magnitudes")
CASTS = ("torch_e4m3fn.all.bf16", "torch_e4m3fn.e4m3.f32", "torch_decode.e4m3fn")


def kept():
    """file name -> which of its tensors to keep."""
    files = {"inputs": lambda name: name not in LEFT_OUT}
    for implementation in IMPLEMENTATIONS:
        files[implementation] = lambda name: name.rpartition(".")[0] not in LEFT_OUT and name[-2:] in (".q", ".s")
    files["casts"] = lambda name: name in CASTS
    files["cast_inputs"] = lambda name: name == "e4m3.f32"
    return files


def main(recorded, archive):
    with tarfile.open(archive, "w:xz", preset=9) as tar, tempfile.TemporaryDirectory() as work:
        for file, wanted in kept().items():
            path = os.path.join(work, f"{file}.safetensors")
            tensors = safetensors.read(os.path.join(recorded, f"{file}.safetensors"))
            safetensors.write(path, {name: tensor for name, tensor in tensors.items() if wanted(name)})
            with open(path, "rb") as content:
                data = content.read()
            info = tarfile.TarInfo(f"quantisers/{file}.safetensors")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
