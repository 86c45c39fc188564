#pragma once
// The nibbles that libraries make of scaled values, where they differ from e2m1_from_f32.

#include "kernels/e2m1.hpp"
#include "kernels/scaling.hpp"

namespace refit::kernels {

/// Most libraries: negative numbers have a sign, zero has none. ModelOpt makes NaN 7.
REFIT_FUNCTION std::uint8_t unsigned_zero_e2m1(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits - 0x80000001U < kInfinityBits ? 8U : 0U;  // from the least below 0 to -infinity
  return static_cast<std::uint8_t>(sign | e2m1_index(bits & 0x7FFFFFFFU, Ties::even));
}

/// compressed-tensors: NaN is a zero, whose sign is what torch's code for a dtype leaves.
REFIT_FUNCTION std::uint8_t compressed_tensors_e2m1(float value, DType from) {
  if (value == value) return unsigned_zero_e2m1(value);
  return from == DType::f32 ? 0U : 8U;
}

/// FlashInfer's reference: the first of the nearest values, by distances that are rounded to float32. So ties go to the
/// smaller one, and magnitudes whose neighbours are too far apart (infinity too), and NaN, to zero.
REFIT_FUNCTION std::uint8_t nearest_e2m1(float value) {
  const float magnitude = std::bit_cast<float>(magnitude_bits(value));
  std::uint8_t nearest = 0;
  float least = magnitude;
  for (std::uint8_t index = 1; index < 8; ++index) {
    const float difference = magnitude - f32_from_e2m1(index);
    const float distance = std::bit_cast<float>(magnitude_bits(difference));
    if (distance < least) {
      nearest = index;
      least = distance;
    }
  }
  return static_cast<std::uint8_t>(nearest | (value < 0.0F ? 8U : 0U));
}

/// torchao's f32_to_f4_unpacked: signs stay, and NaN is rounded like a number of exponent 128 without a bound.
REFIT_FUNCTION std::uint8_t torchao_e2m1(float value) {
  if (value == value) return e2m1_from_f32(value, Ties::even);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = ((bits & 0x7FFFFFFFU) + 0x001FFFFFU + ((bits >> 22) & 1U)) >> 22;
  return static_cast<std::uint8_t>((bits >> 28 & 8U) | ((rounded + 4U) & 7U));
}

}  // namespace refit::kernels
