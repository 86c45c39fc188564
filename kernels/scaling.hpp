#pragma once
// What the quantisers of kernels/e2m1.hpp's, fp8_scaled.hpp's and int4.hpp's formats have in common: the scale of a
// block, and how a value is divided by it. Like kernels/quantiser.hpp: integer operations and single IEEE operations
// only, nothing that a compiler could fuse. Libraries must be among libraries(format), and amax the largest
// magnitude_bits of values.

#include "core/stored_format.hpp"
#include "kernels/bits.hpp"
#include "kernels/quantiser.hpp"

namespace refit::kernels {

/// A block's scale as its quantiser uses it. Of the two factors one is 1, unless a library multiplies and divides.
struct Scaling {
  float multiplier = 1.0F;
  float divisor = 1.0F;
  float stored = 0.0F;    ///< a scale that is stored as a number of the weight's dtype or float32
  std::uint8_t byte = 0;  ///< one that is stored as E4M3 or E8M0
};

inline constexpr float kLargestE2M1 = 6.0F;

REFIT_FUNCTION float infinity() { return std::bit_cast<float>(kInfinityBits); }

/// Returns what a number of type `dtype` keeps of a float32: F32, F16 or BF16.
REFIT_FUNCTION float rounded_to(DType dtype, float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::bf16) return std::bit_cast<float>(f32_from_bf16(bf16_from_f32(bits)));
  if (dtype == DType::f16) return std::bit_cast<float>(f32_from_f16(f16_from_f32(bits)));
  return value;
}

/// Returns the distance of 1 from the next number of a dtype.
REFIT_FUNCTION float epsilon(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-7F : dtype == DType::f16 ? 0x1p-10F : 0x1p-23F;
}

/// Returns the smallest normal number of a dtype.
REFIT_FUNCTION float smallest_normal(DType dtype) { return dtype == DType::f16 ? 0x1p-14F : 0x1p-126F; }

/// Returns value * multiplier / divisor. Hosts and devices agree on NaN: that of a factor, else that of the value, else
/// (of zeros and infinities) a negative one, as on x86-64.
REFIT_FUNCTION float scaled(float value, const Scaling& by) {
  const float result = value * by.multiplier / by.divisor;
  if (result == result) return result;
  const float nan = by.multiplier != by.multiplier ? by.multiplier : by.divisor != by.divisor ? by.divisor : value;
  return std::bit_cast<float>(nan != nan ? std::bit_cast<std::uint32_t>(nan) | 0x00400000U : 0xFFC00000U);
}

/// Returns the E4M3 byte of a block's scale, which was computed from its amax and a scale of the tensor. NaN of zeros
/// and infinities is negative, as on x86-64; NaN of NaN, which has either sign in the libraries, is positive.
REFIT_FUNCTION std::uint8_t e4m3_scale(float value, float amax, float tensor) {
  if (value == value) return e4m3_from_number(value);
  return amax != amax || tensor != tensor ? 0x7FU : 0xFFU;
}

}  // namespace refit::kernels
