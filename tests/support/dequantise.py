"""Values of quantised checkpoints, decoded anew from what their formats say: nothing here is shared with refit.

    plain("ckpt/llama_ct_nvfp4", "plain", "BF16")   # the same checkpoint without quantisation
"""

import json
import math
import os
import struct

import safetensors

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def e4m3(byte):
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if byte & 0x7F == 0x7F:
        return math.nan
    return sign * (mantissa / 512.0 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


def e8m0(byte):
    return math.nan if byte == 255 else 2.0 ** (byte - 127)


FP4 = tuple(E2M1[n & 7] * (-1.0 if n & 8 else 1.0) for n in range(16))
FP8 = tuple(map(e4m3, range(256)))


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def numbers(tensor):
    """The elements of a tensor in order: floats, or integers as they are."""
    data = tensor.data
    if tensor.dtype == "F8_E4M3":
        return [FP8[byte] for byte in data]
    if tensor.dtype == "BF16":
        return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
    code = {"U8": "B", "I32": "I", "I64": "q", "F32": "f", "F16": "e"}[tensor.dtype]
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def bf16(value):
    """The two bytes of the nearest bfloat16, even at ties, of an exact value."""
    if math.isnan(value) or math.isinf(value):
        return struct.pack("<f", value)[2:]
    exponent = max(math.frexp(value)[1], -125) - 8
    rounded = math.ldexp(round(math.ldexp(value, -exponent)), exponent)
    if abs(rounded) >= 2.0**128:
        rounded = math.inf
    return struct.pack("<f", math.copysign(rounded, value))[2:]


def rows_of(n, k, value):
    return [value(i, j) for i in range(n) for j in range(k)]


def decode_fp8(q, scale, shape):
    """One scale for all, for each row, or for each block of 128 x 128; bytes are E8M0 of 32 columns."""
    values, scales = numbers(q), numbers(scale)
    n, k = shape[-2:]
    if scale.dtype == "U8":
        return [v * e8m0(scales[i // 32]) for i, v in enumerate(values)]
    if len(scales) == 1:
        return [v * scales[0] for v in values]
    if len(scales) == n and scale.shape in ((n,), (n, 1)):
        return [v * scales[i // k] for i, v in enumerate(values)]
    across = -(-k // 128)
    down = -(-n // 128)
    return [
        v * scales[i // (n * k) * down * across + i // k % n // 128 * across + i % k // 128] for i, v in enumerate(values)
    ]


def decode_fp4(packed, factors, group):
    """Element 2 j is the low nibble of byte j; `factors`: one for each `group` elements."""
    values = []
    for byte in packed.data:
        values += (FP4[byte & 15], FP4[byte >> 4])
    return [v * factors[i // group] for i, v in enumerate(values)]


def nibble(words, word, index):
    return words[word] >> 4 * index & 15


def decode_int4(packed, scale, zeros, n, k):
    words, scales, zero_words = numbers(packed), numbers(scale), numbers(zeros) if zeros else None
    groups = len(scales) // n
    group = k // groups

    def value(i, j):
        g = j // group
        zero = 8 if zero_words is None else nibble(zero_words, i // 8 * groups + g, i % 8)
        return (nibble(words, (i * k + j) // 8, j % 8) - zero) * scales[i * groups + g]

    return rows_of(n, k, value)


def decode_gptq(qweight, scale, zeros):
    words, scales, zero_words = numbers(qweight), numbers(scale), numbers(zeros)
    k, n = qweight.shape[0] * 8, qweight.shape[1]
    group = k // scale.shape[0]

    def value(i, j):
        g = j // group
        zero = nibble(zero_words, (g * n + i) // 8, i % 8) + 1
        return (nibble(words, j // 8 * n + i, j % 8) - zero) * scales[g * n + i]

    return (n, k), rows_of(n, k, value)


def decode_awq(qweight, scale, zeros):
    words, scales, zero_words = numbers(qweight), numbers(scale), numbers(zeros)
    k, n = qweight.shape[0], qweight.shape[1] * 8
    group = k // scale.shape[0]

    def value(i, j):
        g, place = j // group, AWQ_ORDER.index(i % 8)
        zero = nibble(zero_words, (g * n + i) // 8, place)
        return (nibble(words, (j * n + i) // 8, place) - zero) * scales[g * n + i]

    return (n, k), rows_of(n, k, value)


def transposed(values, experts, rows, columns):
    """[experts, rows, columns] as [experts, columns, rows]."""
    return [
        values[(e * rows + i) * columns + j] for e in range(experts) for j in range(columns) for i in range(rows)
    ]


def decode(tensors, method):
    """name -> (shape, values) of every quantised weight, under the name that it has where it is not quantised."""
    result = {}
    for name, tensor in tensors.items():
        module, _, word = name.rpartition(".")
        part = lambda suffix: tensors.get(f"{module}.{suffix}")  # noqa: E731
        weight = f"{module}.weight"
        if word == "weight_packed" and tensor.dtype == "I32":
            n, k = numbers(part("weight_shape"))
            result[weight] = (n, k), decode_int4(tensor, part("weight_scale"), part("weight_zero_point"), n, k)
        elif word in ("weight", "weight_packed") and tensor.dtype == "U8":
            shape = (tensor.shape[0], tensor.shape[1] * 2)
            if part("weight_scale").dtype == "U8":
                factors = [e8m0(byte) for byte in part("weight_scale").data]
                result[weight] = shape, decode_fp4(tensor, factors, 32)
            else:
                divisor, multiplier = part("weight_global_scale"), part("weight_scale_2")
                scales = numbers(part("weight_scale"))
                if divisor:
                    factors = [f32(s / numbers(divisor)[0]) for s in scales]
                else:
                    factors = [f32(s * numbers(multiplier)[0]) for s in scales]
                result[weight] = shape, decode_fp4(tensor, factors, 16)
        elif word == "weight" and tensor.dtype == "F8_E4M3":
            scale = part("weight_scale_inv") or part("weight_scale")
            result[weight] = tensor.shape, decode_fp8(tensor, scale, tensor.shape)
        elif word == "qweight":
            of = decode_gptq if method == "gptq" else decode_awq
            result[weight] = of(tensor, part("scales"), part("qzeros"))
        elif name.endswith("_blocks"):
            weight = name[: -len("_blocks")]
            experts, rows, blocks, _ = tensor.shape
            factors = [e8m0(byte) for byte in tensors[weight + "_scales"].data]
            values = decode_fp4(tensor, factors, 32)
            result[weight] = (experts, blocks * 32, rows), transposed(values, experts, rows, blocks * 32)
    return result


PARTS = (
    ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_global_scale", ".input_scale",
    ".input_global_scale", ".weight_zero_point", ".weight_shape", ".qweight", ".qzeros", ".scales", ".g_idx", "_blocks",
    "_scales",
)  # fmt: skip


def read_all(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(safetensors.read(os.path.join(folder, name)))
    return tensors


def plain(source, target, dtype):
    """Writes the checkpoint `source` without quantisation: its weights as `dtype`, BF16 or F32, all else as it is."""
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    method = config.pop("quantization_config", {}).get("quant_method")
    tensors = read_all(source)
    values = decode(tensors, method)
    result = {n: t for n, t in tensors.items() if n not in values and not n.endswith(PARTS)}
    for name, (shape, numbers_of) in values.items():
        encode = bf16 if dtype == "BF16" else lambda value: struct.pack("<f", value)
        known = {struct.pack("<d", value): encode(value) for value in set(numbers_of)} | {
            struct.pack("<d", zero): encode(zero) for zero in (0.0, -0.0)
        }
        data = b"".join(known[struct.pack("<d", value)] for value in numbers_of)
        result[name] = safetensors.Tensor(dtype, tuple(shape), data)
    os.makedirs(target, exist_ok=True)
    safetensors.write(os.path.join(target, "model.safetensors"), result)
    with open(os.path.join(target, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return values
