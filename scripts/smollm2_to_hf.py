"""Writes SmolLM2-135M-Instruct as a Hugging Face checkpoint: bf16 safetensors shards, their index and config.json.

The source is a GGUF file (projections Q4_1, embedding Q8_0, norms F32). Its values are dequantised, so they are the
model's own up to the quantisation, and the result is a real, working model. Names become Hugging Face's, and the row
order of q_proj and k_proj, which GGUF keeps for interleaved rotary embeddings, is turned back into Hugging Face's
(rotate-half). Needs numpy and gguf.

    smollm2_to_hf.py MODEL.gguf CONFIG.json OUT
"""

import json
import os
import shutil
import struct
import sys

import gguf
import numpy

SHARDS = 3
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def hf_name(name):
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def rotate_half_rows(weight, heads):
    """GGUF's rows of a head are (pair, half); Hugging Face's are (half, pair)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values):
    """Rounds float32 to the nearest bf16, ties to even; the weights are finite."""
    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    return ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")


def read_config(path, fields):
    """config.json of the family, checked against the GGUF's own metadata."""
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for key, field in {
        "hidden_size": "llama.embedding_length",
        "num_hidden_layers": "llama.block_count",
        "num_attention_heads": "llama.attention.head_count",
        "num_key_value_heads": "llama.attention.head_count_kv",
        "intermediate_size": "llama.feed_forward_length",
        "vocab_size": "llama.vocab_size",
        "rope_theta": "llama.rope.freq_base",
    }.items():
        if config[key] != fields[field].contents():
            sys.exit(f"error: {path}: {key} is {config[key]}, but the model has {fields[field].contents()}")
    for key in ("bos", "eos", "padding"):
        name = "pad" if key == "padding" else key
        config[f"{name}_token_id"] = fields[f"tokenizer.ggml.{key}_token_id"].contents()
    return config


def convert(tensor, config):
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    if tensor.name.endswith("attn_q.weight"):
        values = rotate_half_rows(values, config["num_attention_heads"])
    if tensor.name.endswith("attn_k.weight"):
        values = rotate_half_rows(values, config["num_key_value_heads"])
    return to_bf16(values)


def shards(tensors):
    """Consecutive tensors, cut into SHARDS files of about equal bytes."""
    total = sum(array.nbytes for array in tensors.values())
    result, done = [{} for _ in range(SHARDS)], 0
    for name, array in tensors.items():
        result[min(SHARDS - 1, done * SHARDS // total)][name] = array
        done += array.nbytes
    return result


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())


def write_checkpoint(folder, tensors, config):
    weight_map = {}
    for number, shard in enumerate(shards(tensors), 1):
        file_name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        print(f"  writing {file_name}", file=sys.stderr)
        write_safetensors(os.path.join(folder, file_name), shard)
        weight_map.update(dict.fromkeys(shard, file_name))
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    for name, value in (("model.safetensors.index.json", index), ("config.json", config)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")


def main(source, config_path, out):
    reader = gguf.GGUFReader(source)
    config = read_config(config_path, reader.fields)
    tensors = {}
    for number, tensor in enumerate(reader.tensors, 1):
        tensors[hf_name(tensor.name)] = convert(tensor, config)
        if number % 68 == 0 or number == len(reader.tensors):
            print(f"  dequantised {number} of {len(reader.tensors)} tensors", file=sys.stderr)
    temporary = out.rstrip("/") + ".incomplete"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    write_checkpoint(temporary, tensors, config)
    os.rename(temporary, out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
