#pragma once
// Random values of the kinds that quantisers treat differently.

#include <algorithm>
#include <cstdint>
#include <random>

#include "core/quantiser.hpp"

namespace refit::quantiser_test {

using Random = std::mt19937_64;

inline constexpr Quantiser kAll[] = {Quantiser::nemo_rl, Quantiser::nemo_rl_pow2, Quantiser::te,
                                     Quantiser::te_pow2, Quantiser::vllm,         Quantiser::vllm_ue8m0,
                                     Quantiser::mxfp8,   Quantiser::mxfp8_nemo_rl};

/// Float32 bits of a value of one of the kinds that quantisers treat differently; from kFirstUsual on near 2^exponent.
inline constexpr int kKinds = 10;
inline constexpr int kFirstUsual = 5;
inline std::uint32_t random_value(Random& random, int kind, int exponent) {
  const auto bits = static_cast<std::uint32_t>(random());
  const std::uint32_t sign = bits & 0x80000000U;
  const std::uint32_t power = sign | static_cast<std::uint32_t>(std::clamp(exponent + 127, 0, 254)) << 23;
  switch (kind) {
    case 0: return sign;
    case 1: return sign | 0x7F800000U;
    case 2: return bits | 0x7FC00000U;
    case 3: return bits;
    case 4: return sign | (bits & 0x007FFFFFU);                   // subnormal
    case 5: return power | (bits & 63U);                          // a few units above a power of two
    case 6: return power | (0x005FFFE0U + (bits & 127U));         // around 448 times one
    case 7: return power | (((bits & 15U) << 19) + (bits & 1U));  // E4M3 ties, with a neighbour
    case 8: return power | (((bits & 127U) << 16));               // a BF16
    default: return power | (bits & 0x007FFFFFU);
  }
}

}  // namespace refit::quantiser_test
