#pragma once
// NVFP4, in four steps that hosts and devices compute to the same bits:
//
//   nvfp4_tensor_scale(amax of the tensor)       the float32 that is stored of the tensor
//   nvfp4_block_scale(amax of a block, that)     the E4M3 byte of 16 columns
//   nvfp4_scaling(that byte, the tensor's)       how the block's values are scaled
//   nvfp4_nibble(value, that)                    one value's E2M1 nibble
//
// A tensor's amax is that of all weights which share it: q, k, v or gate, up. E.g. modelopt, amax 2688 of the tensor
// and 12 of a block: 1 is stored, and 2 (0x40) of the block, whose values are divided by 2: 12 is 6 (nibble 7).

#include "kernels/fp4_values.hpp"

namespace refit::kernels {

inline constexpr float kLargestNvfp4 = kLargestE4M3 * kLargestE2M1;

/// What the float32 of a tensor is: libraries store a factor of its values, that factor's inverse, or the amax.
enum class TensorScale : std::uint8_t { multiplier, divisor, amax };

REFIT_FUNCTION TensorScale tensor_scale(Library library) {
  switch (library) {
    case Library::te:
    case Library::te_16x16: return TensorScale::amax;
    case Library::modelopt:
    case Library::torchao: return TensorScale::multiplier;
    default: return TensorScale::divisor;
  }
}

/// Step 1: returns the scale that is stored of a tensor of values of type `from`.
REFIT_FUNCTION float nvfp4_tensor_scale(Library library, float amax, DType from) {
  if (tensor_scale(library) == TensorScale::amax) return amax;
  if (tensor_scale(library) == TensorScale::multiplier) return amax / kLargestNvfp4;
  if (library != Library::compressed_tensors) {
    const float reciprocal = 1.0F / amax;  // rounded by itself, as torch divides a number by a tensor
    return reciprocal * kLargestNvfp4;
  }
  const float bounded = amax < smallest_normal(from) ? smallest_normal(from) : amax;
  const float reciprocal = rounded_to(from, 1.0F / bounded);
  const float divisor = rounded_to(from, reciprocal * kLargestNvfp4);
  return divisor < infinity() ? divisor : 1.0F;
}

/// Returns what TransformerEngine multiplies a tensor's values with, from its amax.
REFIT_FUNCTION float te_encode_scale(float amax) {
  const float largest = std::bit_cast<float>(0x7F7FFFFFU);
  const float scale = kLargestNvfp4 / amax;
  return scale == 0.0F ? 1.0F : scale > largest ? largest : scale;
}

/// Step 2: returns the E4M3 byte of a block.
REFIT_FUNCTION std::uint8_t nvfp4_block_scale(Library library, float amax, float tensor, DType from) {
  switch (library) {
    case Library::compressed_tensors: {
      const float sixth = rounded_to(from, amax / kLargestE2M1);
      const std::uint8_t byte = e4m3_scale(tensor * sixth, amax, tensor);
      return byte == 0 ? 0x20U : byte;  // 0.125
    }
    case Library::modelopt: {
      const float six = kLargestE2M1 * tensor;
      const float scale = amax / six;
      return e4m3_scale(scale == 0.0F ? 1.0F : scale < 0x1p-9F ? 0x1p-9F : scale, amax, tensor);
    }
    case Library::torchao: {
      const float sixth = amax / kLargestE2M1;
      const float scale = sixth / tensor;
      return e4m3_scale(scale < 0x1p-6F ? 0x1p-6F : scale, amax, tensor);
    }
    case Library::flashinfer: {
      const float sixth = amax / kLargestE2M1;
      return e4m3_scale(sixth * tensor, amax, tensor);
    }
    case Library::te:
    case Library::te_16x16: {
      const float sixth = te_encode_scale(tensor) * (1.0F / kLargestE2M1);
      return e4m3_scale(amax * sixth, amax, tensor);
    }
    default: {  // vllm
      const float sixth = amax * (1.0F / kLargestE2M1);
      return e4m3_scale(tensor * sixth, amax, tensor);
    }
  }
}

/// Step 3: returns how the values of a block are scaled.
REFIT_FUNCTION Scaling nvfp4_scaling(Library library, std::uint8_t byte, float tensor) {
  const float scale = f32_from_e4m3(byte);
  if (scale != scale && library != Library::flashinfer) return {.multiplier = scale, .byte = byte};
  switch (library) {
    case Library::compressed_tensors: return {.divisor = scale / tensor, .byte = byte};
    case Library::modelopt: return {.divisor = scale * tensor, .byte = byte};
    case Library::torchao: {
      const float reciprocal = 1.0F / tensor;
      return {.multiplier = reciprocal / scale, .byte = byte};
    }
    case Library::flashinfer: return {.multiplier = tensor, .divisor = scale > 0.0F ? scale : 1.0F, .byte = byte};
    case Library::te:
    case Library::te_16x16: {
      const float largest = std::bit_cast<float>(0x7F7FFFFFU);
      const float decode = 1.0F / te_encode_scale(tensor);
      const float reciprocal = 1.0F / (scale * decode);
      return {.multiplier = reciprocal > largest ? largest : reciprocal, .byte = byte};
    }
    default: {  // vllm, for which the reciprocal of zero is that of 1e8
      const float decode = 1.0F / (tensor == 0.0F ? 1e8F : tensor);
      const float product = scale * decode;
      return {.multiplier = 1.0F / (product == 0.0F ? 1e8F : product), .byte = byte};
    }
  }
}

/// Returns the nibble of a scaled value of type `from`.
REFIT_FUNCTION std::uint8_t nvfp4_rounded(Library library, float number, DType from) {
  switch (library) {
    case Library::compressed_tensors: return compressed_tensors_e2m1(number, from);
    case Library::torchao: return torchao_e2m1(number);
    case Library::flashinfer: return nearest_e2m1(number);
    case Library::modelopt: return unsigned_zero_e2m1(number);
    default: return number == number ? unsigned_zero_e2m1(number) : 0U;
  }
}

/// Step 4: returns the nibble of a value of type `from`.
REFIT_FUNCTION std::uint8_t nvfp4_nibble(Library library, float value, const Scaling& by, DType from) {
  return nvfp4_rounded(library, scaled(value, by), from);
}

/// Returns the factor of a block's E2M1 values: of a divisor as compressed-tensors computes it, of a multiplier as
/// ModelOpt does, and vLLM once it has inverted a divisor. Their products are rounded once more where they are stored.
REFIT_FUNCTION float nvfp4_factor(TensorScale kind, std::uint8_t byte, float tensor) {
  const float scale = f32_from_e4m3(byte);
  if (kind == TensorScale::divisor) return scale / tensor;
  if (kind == TensorScale::multiplier) return scale * tensor;
  const float multiplier = tensor / kLargestNvfp4;
  return scale * multiplier;
}

}  // namespace refit::kernels
