#pragma once
// 16 neighbouring values in a device lane's registers, and the largest magnitudes of lanes.

#include "kernels/bits.hpp"
#include "kernels/kokkos_compat.hpp"

namespace refit::kernels {

inline constexpr int kWarp = 32;
inline constexpr int kElements = 16;  ///< values of a lane, which it writes in one store

KOKKOS_FORCEINLINE_FUNCTION std::uint32_t larger(std::uint32_t a, std::uint32_t b) { return a > b ? a : b; }

/// Returns the largest number of a group of 1, 2, 4 .. 32 neighbouring lanes to all of them; all lanes of a warp call
/// it.
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t largest_of_lanes(std::uint32_t number, [[maybe_unused]] int group = kWarp) {
#if defined(__CUDA_ARCH__)
  REFIT_UNROLL
  for (int step = group / 2; step > 0; step /= 2) {
    number = larger(number, __shfl_xor_sync(0xFFFFFFFFU, number, step));
  }
#endif
  return number;
}

/// 16 neighbouring elements of two bytes each, as they are stored.
struct Values {
  Unit16 half[2];

  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t word(int pair) const {
    const Unit16& of = half[pair / 4];
    const std::uint64_t both = pair % 4 < 2 ? of.low : of.high;
    return static_cast<std::uint32_t>(both >> (32 * (pair % 2)));
  }
};

/// The largest of both halves of many words, without their signs: a word is compared as a whole for its upper half.
struct LargestHalf {
  std::uint32_t upper = 0;
  std::uint32_t lower = 0;

  KOKKOS_FORCEINLINE_FUNCTION void add(const Values& values) {
    REFIT_UNROLL
    for (int p = 0; p < kElements / 2; ++p) {
      upper = larger(upper, values.word(p) & 0x7FFFFFFFU);
      lower = larger(lower, values.word(p) << 17);
    }
  }
  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t bits() const { return larger(upper >> 16, lower >> 17); }
};

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION float float_of(typename From::Bits bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits)));
}

/// A bfloat16 that is not NaN is the upper half of its float.
KOKKOS_FORCEINLINE_FUNCTION void floats_of(BF16, std::uint32_t word, float* pair) {
  pair[0] = std::bit_cast<float>(word << 16);
  pair[1] = std::bit_cast<float>(word & 0xFFFF0000U);
}
KOKKOS_FORCEINLINE_FUNCTION void floats_of(F16, std::uint32_t word, float* pair) {
  pair[0] = float_of<F16>(static_cast<std::uint16_t>(word));
  pair[1] = float_of<F16>(static_cast<std::uint16_t>(word >> 16));
}

KOKKOS_FORCEINLINE_FUNCTION Values load_values(const std::byte* data) {
  return {{load<Unit16>(data, 0), load<Unit16>(data, 1)}};
}

}  // namespace refit::kernels
