#pragma once
// Signed sums of values in fixed point, and those of whole rows on hosts.

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/bits.hpp"

namespace refit::kernels {

inline constexpr float kLimit = 0x1p39F;
inline constexpr double kMagic =
    0x1.8p52;  ///< adding it rounds to an integer, nearest even, and leaves it in the low bits

REFIT_FORCEINLINE std::uint64_t fixed_point(float value, float sign_of_column) {
  const float scaled = value * 0x1p24F;                   // exact
  const float below = scaled < kLimit ? scaled : kLimit;  // NaN too
  const float bounded = below > -kLimit ? below : -kLimit;
  return std::bit_cast<std::uint64_t>(static_cast<double>(bounded * sign_of_column) + kMagic);
}

template <typename From>
REFIT_FORCEINLINE float value_of(typename From::Bits bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits)));
}

/// Returns the sum of count contiguous elements times their signs; `data` need not be aligned.
std::uint64_t sum_row(F32, const std::byte* data, const float* signs, std::int64_t count);
std::uint64_t sum_row(F16, const std::byte* data, const float* signs, std::int64_t count);
std::uint64_t sum_row(BF16, const std::byte* data, const float* signs, std::int64_t count);

/// Sets values[c] to the E4M3 byte c x scale, rounded to a float.
void scale_bytes(const std::byte* bytes, float scale, std::int64_t count, float* values);

}  // namespace refit::kernels
