"""Makes format_sources.tar.xz: bf16 checkpoints, and digests of what vLLM held after libraries had quantised them.

    make_format_sources.py RECORDED/formats format_sources.tar.xz
"""

import hashlib
import io
import json
import lzma
import os
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import safetensors  # noqa: E402

LAYOUT = "tp2_emulation"
# source, the checkpoint that a library made of it, gen.precision, gen.quantiser
MADE = (
    ("llama", "llama_ct_nvfp4", "nvfp4", "compressed_tensors"),
    ("llama", "llama_mo_nvfp4", "nvfp4", "modelopt"),
    ("llama", "llama_ct_fp8_tensor", "fp8_tensor", "compressed_tensors"),
    ("llama", "llama_mo_fp8", "fp8_tensor", "modelopt"),
    ("llama", "llama_ct_fp8_channel", "fp8_channel", "compressed_tensors"),
    ("llama", "llama_ct_mxfp4", "mxfp4", "compressed_tensors"),
    ("qwen3_moe", "qwen3_moe_ct_nvfp4", "nvfp4", "compressed_tensors"),
    ("qwen3_moe", "qwen3_moe_mo_nvfp4", "nvfp4", "modelopt"),
    ("qwen3_moe", "qwen3_moe_ct_fp8_tensor", "fp8_tensor", "compressed_tensors"),
    ("qwen3_moe", "qwen3_moe_mo_fp8", "fp8_tensor", "modelopt"),
    ("qwen3_moe", "qwen3_moe_ct_fp8_channel", "fp8_channel", "compressed_tensors"),
    ("gpt_oss", "gpt_oss_mxfp4", "mxfp4", "triton"),
)


def is_compared(name):
    """Scales of activations come from a calibration, not from weights, and attention's buffers from constructors."""
    return ".attn.attn." not in name and ".self_attn.attn." not in name and ".input_scale" not in name and "input_global" not in name and "w13_input" not in name and "w2_input" not in name


def digests(path):
    tensors = safetensors.read(path)
    return {
        name: [tensor.dtype, list(tensor.shape), hashlib.sha256(tensor.data).hexdigest()[:16]]
        for name, tensor in tensors.items()
        if is_compared(name)
    }


def main():
    folder, archive = sys.argv[1:]
    rows = []
    for source, checkpoint, precision, quantiser in MADE:
        ranks = [digests(os.path.join(folder, "vllm", checkpoint, LAYOUT, f"rank{rank}.safetensors")) for rank in range(2)]
        rows.append({"source": source, "checkpoint": checkpoint, "precision": precision, "quantiser": quantiser, "ranks": ranks})
    files = {"index.json": json.dumps(rows, indent=1).encode()}
    for source in sorted({row[0] for row in MADE}):
        for name in ("config.json", "model.safetensors"):
            with open(os.path.join(folder, "source", source, name), "rb") as file:
                files[f"{source}/{name}"] = file.read()
    with lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"format_sources/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
