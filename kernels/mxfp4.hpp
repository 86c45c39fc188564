#pragma once
// MXFP4, in two steps that hosts and devices compute to the same bits:
//
//   mxfp4_scaling(amax of a block)   the E8M0 byte of 32 columns, and how their values are scaled
//   mxfp4_nibble(value, that)        one value's E2M1 nibble
//
// E.g. triton, amax 5: 5 / 6 rounded up to a power of two is 1, byte 127; 5 lies between 4 and 6 and becomes 6 (nibble
// 7). The values of compressed_tensors and torchao are F32 or BF16.

#include "kernels/fp4_values.hpp"

namespace refit::kernels {

/// Returns floor(log2(value)) with log2 rounded to float32, at least -128; value positive and finite. As ceil_log2: m
/// units of 2^(k - 24) below 2^k have a log2 that rounds to k where m <= 2^j log(2), and 2^j <= k - 1 < 2^(j + 1) or,
/// for k <= 0, 2^j <= -k < 2^(j + 1).
REFIT_FUNCTION int floor_log2(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (bits < 0x00400000U) return -128;
  const bool subnormal = bits < 0x00800000U;
  const int k = subnormal ? -126 : static_cast<int>(bits >> 23) - 126;
  const int below = static_cast<int>(0x00800000U - (bits & 0x007FFFFFU)) * (subnormal ? 2 : 1);
  const auto distance = static_cast<float>(k > 0 ? k - 1 : -k);
  const int j = static_cast<int>(std::bit_cast<std::uint32_t>(distance) >> 23) - 127;
  const int rounded_up = j < 1 ? 0 : 44 >> (6 - j);
  return below <= rounded_up ? k : k - 1;
}

/// Returns the float of a biased exponent with no mantissa: 0 is zero, 255 infinity.
REFIT_FUNCTION float f32_from_exponent(std::uint32_t biased) { return std::bit_cast<float>(biased << 23); }

/// triton_kernels' downcast_to_mxfp: the exponent of amax / 6, rounded up or down. NaN wraps to zero when rounded up.
REFIT_FUNCTION Scaling triton_mxfp4_scaling(float amax, bool up) {
  const std::uint32_t sixth = amax != amax ? kNanBits : std::bit_cast<std::uint32_t>(amax / kLargestE2M1);
  const std::uint32_t biased = (sixth + (up ? 0x007FFFFFU : 0U)) >> 23 & 0xFFU;
  const float reciprocal = biased == 0U ? 0.0F : 1.0F / f32_from_exponent(biased);
  return {.multiplier = reciprocal, .byte = static_cast<std::uint8_t>(biased)};
}

/// torchao's to_mx, but for its mode RCEIL; compressed-tensors' scale is EVEN's.
REFIT_FUNCTION std::uint32_t exponent_of_amax(Library library, std::uint32_t amax) {
  switch (library) {
    case Library::torchao_floor: return amax >> 23;
    case Library::torchao_ceil: return (amax >> 23) + ((amax & 0x007FFFFFU) != 0U ? 1U : 0U);
    default: return (amax + 0x00200000U) >> 23;  // 1.75 * 2^k counts as 2^(k + 1)
  }
}

REFIT_FUNCTION Scaling torchao_mxfp4_scaling(Library library, float amax) {
  if (amax != amax) return {.divisor = infinity(), .byte = 0xFF};
  const std::uint32_t biased = exponent_of_amax(library, std::bit_cast<std::uint32_t>(amax));
  const std::uint32_t byte = biased < 2U ? 0U : biased - 2U;
  return {.divisor = f32_from_exponent(byte == 0U ? 1U : byte), .byte = static_cast<std::uint8_t>(byte)};
}

REFIT_FUNCTION Scaling torchao_rceil_scaling(float amax) {
  if (amax != amax) return {.multiplier = std::bit_cast<float>(kNanBits), .byte = 0xFF};
  const int byte = scale_exponent(amax / kLargestE2M1) + 127;
  return {.multiplier = byte == 0 ? 1.0F : float_power_of_two(127 - byte), .byte = static_cast<std::uint8_t>(byte)};
}

/// compressed-tensors stores a scale of infinity, that of amax from 1.75 * 2^127 on, as 127.
REFIT_FUNCTION Scaling compressed_tensors_mxfp4_scaling(float amax) {
  const std::uint32_t biased = exponent_of_amax(Library::torchao_even, magnitude_bits(amax));
  if (amax != amax) return {.divisor = float_power_of_two(-127), .byte = 0};
  if (biased == 0xFFU) return {.divisor = infinity(), .byte = 127};
  const std::uint32_t byte = biased < 2U ? 0U : biased - 2U;
  return {.divisor = float_power_of_two(static_cast<int>(byte) - 127), .byte = static_cast<std::uint8_t>(byte)};
}

REFIT_FUNCTION Scaling modelopt_mxfp4_scaling(float amax) {
  if (!(amax < infinity())) return {.divisor = amax, .byte = 0};
  const int exponent = scale_exponent(amax / kLargestE2M1);
  return {.divisor = float_power_of_two(exponent), .byte = static_cast<std::uint8_t>(exponent + 127)};
}

REFIT_FUNCTION Scaling flashinfer_mxfp4_scaling(float amax) {
  const float sixth = amax / kLargestE2M1;
  if (!(sixth > 0.0F)) return {.divisor = 1.0F, .byte = 127};
  const int exponent = sixth == infinity() ? -127 : floor_log2(sixth);
  const int bounded = exponent < -127 ? -127 : exponent;
  return {.divisor = float_power_of_two(bounded), .byte = static_cast<std::uint8_t>(bounded + 127)};
}

/// Step 1: returns a block's scale.
REFIT_FUNCTION Scaling mxfp4_scaling(Library library, float amax) {
  switch (library) {
    case Library::triton: return triton_mxfp4_scaling(amax, true);
    case Library::triton_round_down: return triton_mxfp4_scaling(amax, false);
    case Library::compressed_tensors: return compressed_tensors_mxfp4_scaling(amax);
    case Library::modelopt: return modelopt_mxfp4_scaling(amax);
    case Library::flashinfer: return flashinfer_mxfp4_scaling(amax);
    case Library::torchao_rceil: return torchao_rceil_scaling(amax);
    default: return torchao_mxfp4_scaling(library, amax);
  }
}

/// ModelOpt: ties toward zero, and all zeros are negative ones.
REFIT_FUNCTION std::uint8_t modelopt_mxfp4_nibble(float number) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const std::uint32_t index = magnitude > kInfinityBits ? 0U : e2m1_index(magnitude, Ties::toward_zero);
  return static_cast<std::uint8_t>(index | (bits - 1U < kInfinityBits ? 0U : 8U));
}

/// Returns the nibble of a scaled value of type `from`.
REFIT_FUNCTION std::uint8_t mxfp4_rounded(Library library, float number, DType from) {
  switch (library) {
    case Library::triton:
    case Library::triton_round_down: return e2m1_from_f32(number, Ties::away);
    case Library::compressed_tensors: return compressed_tensors_e2m1(rounded_to(from, number), from);
    case Library::modelopt: return modelopt_mxfp4_nibble(number);
    case Library::flashinfer: return nearest_e2m1(number);
    default: return torchao_e2m1(number);
  }
}

/// Step 2: returns the nibble of a value of type `from`.
REFIT_FUNCTION std::uint8_t mxfp4_nibble(Library library, float value, const Scaling& by, DType from) {
  return mxfp4_rounded(library, scaled(value, by), from);
}

/// Returns the factor of a block's E2M1 values. Byte 0 is 2^-127, for triton_kernels zero.
REFIT_FUNCTION float mxfp4_factor(Library library, std::uint8_t byte) {
  const bool of_triton = library == Library::triton || library == Library::triton_round_down;
  return of_triton ? f32_from_exponent(byte) : f32_from_e8m0(byte);
}

}  // namespace refit::kernels
