"""Makes format_quantisers.tar.xz of what libraries recorded, with a weight that vLLM requantised after loading and one
that its quantisers made of float16.

    make_format_quantisers.py RECORDED/formats format_quantisers.tar.xz
"""

import io
import os
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402

REQUANTISED = os.path.join("vllm", "llama_ct_fp8_tensor_odd", "tp1_emulation")
PARAMETER = "model.layers.0.self_attn.qkv_proj.weight"


def requantised(recorded):
    """A fused weight [N, K] with a scale for each component, and what vLLM made of it: [K, N] and one scale."""
    before, after = (safetensors.read(os.path.join(recorded, REQUANTISED, f"{name}.safetensors"))
                     for name in ("rank0", "rank0_post"))
    return {"loaded": before[PARAMETER], "loaded.s": before[PARAMETER + "_scale"], "requantised": after[PARAMETER],
            "requantised.s": after[PARAMETER + "_scale"]}


def int4_float16(recorded):
    """A weight [N, K] that was float16 when GPTQ's and AWQ's words were made of it."""
    name = "model.layers.0.self_attn.v_proj"
    tensors = {"w": safetensors.read(os.path.join(recorded, "source", "llama256", "model.safetensors"))[name + ".weight"]}
    for form in ("gptq", "awq"):
        checkpoint = safetensors.read(os.path.join(recorded, "ckpt", f"llama256_{form}", "model.safetensors"))
        tensors.update({f"{form}.{part}": checkpoint[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")})
    return tensors


def add(tar, name, path):
    with open(path, "rb") as content:
        data = content.read()
    info = tarfile.TarInfo(f"format_quantisers/{name}")
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main(recorded, archive):
    folder = os.path.join(recorded, "quantisers")
    with tarfile.open(archive, "w:xz", preset=9) as tar, tempfile.TemporaryDirectory() as work:
        for name in sorted(os.listdir(folder)):
            if name.endswith(".safetensors"):
                add(tar, name, os.path.join(folder, name))
        for name, tensors in (("int4_float16", int4_float16(recorded)), ("requantised", requantised(recorded))):
            path = os.path.join(work, name)
            safetensors.write(path, tensors)
            add(tar, f"{name}.safetensors", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
