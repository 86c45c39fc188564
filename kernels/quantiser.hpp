#pragma once
// The arithmetic of every FP8 quantiser, in three steps that hosts and devices compute to the same bits:
//
//   amax of a block      the largest magnitude_bits(value) of its values, compared as integers
//   block_scale(amax)    the factor of the values, and the scale stored beside them
//   quantise_value(...)  one value's E4M3 byte
//
// E.g. amax 3 under nemo_rl: values are multiplied by 149.33, 1.0 becomes 144 (byte 0x71), and 3 / 448 is stored.
//
// Integer operations and single IEEE operations and comparisons only: nothing that a compiler could fuse.

#include <bit>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/quantiser.hpp"
#include "kernels/device.hpp"

namespace refit::kernels {

/// The factor and the stored scale of a block.
struct BlockScale {
  float factor;          ///< values are multiplied by it
  std::uint32_t stored;  ///< the stored scale: bits of a float32, or an E8M0 byte (is_mx)
};

inline constexpr std::uint32_t kInfinityBits = 0x7F800000U;
inline constexpr std::uint32_t kNanBits = 0x7FC00000U;
inline constexpr float kLargestE4M3 = 448.0F;

/// Step 1: returns the bits of a magnitude; the largest in a block is its amax, also where that is infinite or NaN.
REFIT_FUNCTION std::uint32_t magnitude_bits(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU; }

/// Returns 2^exponent, exponent in -127 .. 127.
REFIT_FUNCTION float float_power_of_two(int exponent) {
  const std::uint32_t bits = exponent == -127 ? 0x00400000U : static_cast<std::uint32_t>(exponent + 127) << 23;
  return std::bit_cast<float>(bits);
}

/// Returns ceil(log2(value)) with log2 rounded to float32, as the quantisers' authors compute it; value positive and
/// finite.
///
/// A value a few units above 2^k has a log2 that rounds to k. Of 2^k (1 + m 2^-23) the log2 is k + m 2^-23 / log(2),
/// and the floats above k are 2^(j - 23) apart, where 2^j <= k < 2^(j + 1), or 2^j <= -k - 1 < 2^(j + 1) below zero: it
/// rounds to k where m <= 2^(j - 1) log(2). That is 44.4 for j = 7, and half as much for each j less.
REFIT_FUNCTION int ceil_log2(float value) {
  const std::uint32_t given = std::bit_cast<std::uint32_t>(value);
  // A subnormal is an integer multiple of 2^-149, and that integer's float has its mantissa.
  const bool subnormal = given < 0x00800000U;
  const auto integer = static_cast<float>(static_cast<std::int32_t>(given));
  const std::uint32_t bits = subnormal ? std::bit_cast<std::uint32_t>(integer) : given;
  const int k = static_cast<int>(bits >> 23) - (subnormal ? 127 + 149 : 127);
  const auto m = static_cast<int>(bits & 0x007FFFFFU);
  const auto distance = static_cast<float>(k < 0 ? -k - 1 : k);
  const int j = static_cast<int>(std::bit_cast<std::uint32_t>(distance) >> 23) - 127;
  const int rounded_down = j < 2 ? 0 : 44 >> (7 - j);
  return m <= rounded_down ? k : k + 1;
}

/// Returns the exponent of a block's power of two, ceil(log2(descale)) within -127 .. 127; descale is not NaN. There is
/// no branch, and hosts compute vectors of exponents: zero counts as the least number, and infinity as 2^128.
REFIT_FUNCTION int scale_exponent(float descale) {
  const std::uint32_t given = std::bit_cast<std::uint32_t>(descale);
  const int exponent = ceil_log2(std::bit_cast<float>(given < 1U ? 1U : given));
  const int bounded = exponent < 127 ? exponent : 127;
  return bounded < -127 ? -127 : bounded;
}

/// Returns the bits of a scale as a float32 stores it; all NaN have the same bits, whatever their operands.
REFIT_FUNCTION std::uint32_t stored_bits(float scale) {
  return scale != scale ? kNanBits : std::bit_cast<std::uint32_t>(scale);
}

/// Step 2: returns the scale of a block of values of type `from` (F32, F16 or BF16). Each quantiser treats zero, tiny,
/// infinite and NaN blocks in its own way.
REFIT_FUNCTION BlockScale block_scale(Quantiser quantiser, float amax, DType from) {
  const float infinity = std::bit_cast<float>(kInfinityBits);
  const float nan = std::bit_cast<float>(kNanBits);
  const bool is_nan = amax != amax;
  switch (quantiser) {
    case Quantiser::nemo_rl: {
      const float reciprocal = 1.0F / amax;  // rounded by itself, as torch divides a number by a tensor
      const float factor = amax == 0.0F || amax == infinity ? 1.0F : reciprocal * kLargestE4M3;
      return {factor, stored_bits(1.0F / factor)};
    }
    case Quantiser::nemo_rl_pow2: {
      const int exponent = is_nan ? -127 : scale_exponent(amax / kLargestE4M3);
      if (exponent == -127) return {1.0F, stored_bits(1.0F)};
      return {float_power_of_two(-exponent), stored_bits(float_power_of_two(exponent))};
    }
    case Quantiser::te:
    case Quantiser::te_pow2: {
      // Beyond float32 it becomes the largest of the values' type; no F16 is so small.
      const float largest = std::bit_cast<float>(from == DType::bf16 ? 0x7F7F0000U : 0x7F7FFFFFU);
      const float quotient = kLargestE4M3 / amax;
      float factor = amax == 0.0F ? 1.0F : quotient == infinity ? largest : quotient;
      if (quantiser == Quantiser::te_pow2) {
        const std::uint32_t exponent_bits = std::bit_cast<std::uint32_t>(factor) & kInfinityBits;
        factor = is_nan ? 0.5F : std::bit_cast<float>(exponent_bits);  // frexp takes NaN's exponent to be 0
      }
      return {factor, stored_bits(1.0F / factor)};
    }
    case Quantiser::vllm:
    case Quantiser::vllm_ue8m0: {
      float scale = (amax < 1e-4F ? 1e-4F : amax) / kLargestE4M3;
      if (quantiser == Quantiser::vllm_ue8m0 && scale < infinity) scale = float_power_of_two(scale_exponent(scale));
      return {1.0F / scale, stored_bits(scale)};
    }
    case Quantiser::mxfp8:
    case Quantiser::mxfp8_nemo_rl: {
      const int of_number = scale_exponent(amax / kLargestE4M3);
      const int exponent = is_nan ? -127 : of_number;
      const bool skips_zero = quantiser == Quantiser::mxfp8_nemo_rl && exponent == -127;
      return {is_nan ? nan : float_power_of_two(-exponent),
              skips_zero ? 1U : static_cast<std::uint32_t>(exponent + 127)};
    }
  }
  return {nan, kNanBits};
}

/// Returns true where the product of a block's factor and any of its values is a number, not NaN.
REFIT_FUNCTION bool has_numbers(std::uint32_t amax, const BlockScale& scale) {
  return amax < kInfinityBits && magnitude_bits(scale.factor) < kInfinityBits;
}

/// Returns the E4M3 byte of a float32's magnitude_bits, not NaN: nearest even, beyond 448 (infinity too) 448.
///
/// Added to a power of two of which a unit is what the byte's last bit is worth, a magnitude is rounded to that bit,
/// and what it becomes lies in the low bits: 8 .. 16 of its exponent's, 0 .. 8 below 2^-6. E.g. 5.3, 2^2 x 1.325: 2^22
/// makes it 11 units of 2^-1, 5.5. There is no branch, and hosts compute vectors of bytes.
REFIT_FUNCTION std::uint32_t e4m3_magnitude(std::uint32_t magnitude) {
  constexpr std::uint32_t kSmallestNormal = 0x3C800000U;
  constexpr std::uint32_t kLargest = 0x43E00000U;
  constexpr std::uint32_t kUp = 20U << 23;  // 2^20, for an exponent's bits
  const std::uint32_t bounded = magnitude < kLargest ? magnitude : kLargest;
  const std::uint32_t own = bounded & kInfinityBits;
  const std::uint32_t exponent = own < kSmallestNormal ? kSmallestNormal : own;
  const float sum = std::bit_cast<float>(bounded) + std::bit_cast<float>(exponent + kUp);
  return std::bit_cast<std::uint32_t>(sum) - (exponent + kUp) + (exponent >> 20) - (kSmallestNormal >> 20);
}

/// Returns the E4M3 byte of a float32 that is not NaN.
REFIT_FUNCTION std::uint8_t e4m3_from_number(float value) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(value) >> 24) & 0x80U;
  return static_cast<std::uint8_t>(sign | e4m3_magnitude(magnitude_bits(value)));
}

/// Returns the same; NaN becomes a NaN of the same sign.
REFIT_FUNCTION std::uint8_t e4m3_from_f32(float value) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(value) >> 24) & 0x80U;
  return value != value ? static_cast<std::uint8_t>(sign | 0x7FU) : e4m3_from_number(value);
}

/// Returns the value of an E4M3 byte, exactly; a NaN's bits are torch's.
REFIT_FUNCTION float f32_from_e4m3(std::uint8_t byte) {
  const std::uint32_t sign = (byte & 0x80U) << 24;
  const std::uint32_t magnitude = byte & 0x7FU;
  // A subnormal is what its mantissa makes of 2^-6, less that.
  const bool subnormal = magnitude < 8U;
  const std::uint32_t larger = (magnitude << 20) + (subnormal ? 121U << 23 : 120U << 23);
  const std::uint32_t excess = subnormal ? 121U << 23 : 0U;
  const float number = std::bit_cast<float>(larger) - std::bit_cast<float>(excess);
  return std::bit_cast<float>(sign | (magnitude == 0x7FU ? 0x7FF00000U : std::bit_cast<std::uint32_t>(number)));
}

/// Returns the value of an E8M0 byte.
REFIT_FUNCTION float f32_from_e8m0(std::uint8_t byte) {
  return byte == 0xFFU ? std::bit_cast<float>(kNanBits) : float_power_of_two(byte - 127);
}

/// Step 3: returns the byte of one value of a block with that factor. Where the product is NaN, the byte's sign is the
/// one that x86-64 gives it: that of a NaN factor (with MX, of a NaN value), else of a NaN value, and minus for zero
/// times infinity.
REFIT_FUNCTION std::uint8_t quantise_value(Quantiser quantiser, float value, float factor) {
  const float product = value * factor;
  if (product == product) return e4m3_from_f32(product);
  const bool of_value = value != value && (is_mx(quantiser) || factor == factor);
  if (of_value) return e4m3_from_f32(value);
  return factor != factor ? 0x7FU : 0xFFU;
}

}  // namespace refit::kernels
