#pragma once
// E2M1, the 4-bit floats of NVFP4 and MXFP4: a sign bit above the index of 0, 0.5, 1, 1.5, 2, 3, 4 or 6.
//
// A byte holds two of them: element 2j of a row in the low nibble, 2j + 1 in the high one. E.g. 1.5, -6 is 0xF3.

#include <bit>
#include <cstdint>

#include "kernels/device.hpp"

namespace refit::kernels {

/// What becomes of a value halfway between two: the one with the even index, the larger or the smaller magnitude.
enum class Ties : std::uint8_t { even, away, toward_zero };

/// Returns 1 for the bits of a magnitude above a bound; `at_bound` says of the bound itself.
REFIT_FUNCTION std::uint32_t is_above(std::uint32_t magnitude, float bound, bool at_bound) {
  const auto least = std::bit_cast<std::int32_t>(bound) - (at_bound ? 1 : 0);
  return static_cast<std::int32_t>(magnitude) > least ? 1U : 0U;
}

/// Returns the index of a magnitude's nearest value, 7 beyond 6; of infinity and NaN too.
///
/// From 1 on it is a float's upper bits, rounded: 1.5 is 0x3FC00000, and 0xFF - 0xFC is 3. There is no branch, and
/// hosts compute vectors of indices.
REFIT_FUNCTION std::uint32_t e2m1_index(std::uint32_t magnitude, Ties ties) {
  const bool to_odd = ties == Ties::away;
  const bool to_even = ties != Ties::toward_zero;
  const std::uint32_t odd = magnitude >> 22 & 1U;
  const std::uint32_t up = to_odd ? 1U : to_even ? odd : 0U;
  const auto normal = static_cast<std::int32_t>((magnitude + 0x001FFFFFU + up) >> 22) - 0xFC;
  const auto small =
      static_cast<std::int32_t>(is_above(magnitude, 0.25F, to_odd) + is_above(magnitude, 0.75F, to_even));
  const std::int32_t index = normal > small ? normal : small;
  return static_cast<std::uint32_t>(index < 7 ? index : 7);
}

/// Returns the nibble of a number; infinity becomes 6, and the sign of zero stays.
REFIT_FUNCTION std::uint8_t e2m1_from_f32(float value, Ties ties) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint8_t>((bits >> 28 & 8U) | e2m1_index(bits & 0x7FFFFFFFU, ties));
}

/// Returns the value of a nibble.
REFIT_FUNCTION float f32_from_e2m1(std::uint8_t nibble) {
  const std::uint32_t index = nibble & 7U;
  const std::uint32_t small = index == 0U ? 0U : std::bit_cast<std::uint32_t>(0.5F);
  const std::uint32_t magnitude = index < 2U ? small : std::bit_cast<std::uint32_t>(0.5F) + (index << 22);
  return std::bit_cast<float>((nibble & 8U) << 28 | magnitude);
}

/// Returns the byte of two elements, and element `column` of a row's bytes.
REFIT_FUNCTION std::uint8_t packed_nibbles(std::uint8_t even, std::uint8_t odd) {
  return static_cast<std::uint8_t>(even | odd << 4);
}
REFIT_FUNCTION std::uint8_t nibble_of(std::uint8_t byte, std::int64_t column) {
  return (column & 1) == 0 ? byte & 0x0FU : byte >> 4;
}

}  // namespace refit::kernels
