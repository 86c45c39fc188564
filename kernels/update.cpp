#include <cmath>

#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

/// Returns the remainder by 7. NVIDIA devices take four instructions: it is that of the sum of all bytes times the
/// remainders of their powers of 2, which are 1, 4 and 2 in turns. The sum is below 2^13, so that sum x 2^32 / 7,
/// rounded up to sum x 613566757, has the remainder / 7 as its fraction, less than 1 / 7 too large.
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t remainder_by_7(std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  const unsigned upper = __dp4a(static_cast<unsigned>(value >> 32), 0x04010204U, 0U);
  const unsigned sum = __dp4a(static_cast<unsigned>(value), 0x01020401U, upper);
  return __umulhi(sum * 613566757U, 7U);
#else
  return static_cast<std::uint32_t>(value % 7U);
#endif
}

/// Returns perturbation(key, index, step) of mixed = combine(key, step).
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t perturbation_of(std::uint64_t mixed, std::uint64_t index) {
  return 1U + remainder_by_7(splitmix64(mixed ^ (index * 0x9E3779B97F4A7C15ULL)));
}

template <typename Bits, int kShift>
struct Perturb {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = true;
  static constexpr int kBits = 8 * sizeof(Bits);
  std::uint64_t mixed;  ///< key and step
  Bits exponent;        ///< all ones in the exponent of a castable type: NaN and infinity; 0 for other types

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits bits, std::int64_t index, std::int64_t) const {
    if (exponent == 0) return static_cast<Bits>(bits ^ 1U);
    const Bits mask = static_cast<Bits>(perturbation_of(mixed, static_cast<std::uint64_t>(index)) << kShift);
    return (bits & exponent) == exponent ? bits : static_cast<Bits>(bits ^ mask);
  }

  /// Changes all elements of a word at once likewise.
  KOKKOS_INLINE_FUNCTION std::uint64_t word(std::uint64_t bits, std::int64_t index) const {
    constexpr std::uint64_t kOnes = ~std::uint64_t{0} / static_cast<Bits>(~Bits{0});  // 1 in every element
    if (exponent == 0) return bits ^ kOnes;
    std::uint64_t masks = 0;
    REFIT_UNROLL
    for (int i = 0; i < 64 / kBits; ++i) {
      const std::uint32_t mask = perturbation_of(mixed, static_cast<std::uint64_t>(index + i));
      masks |= static_cast<std::uint64_t>(mask) << (kBits * i + kShift);
    }
    // An exponent of ones and its lowest bit carry into the sign's place, whence 7 << kShift takes the element's mask.
    const std::uint64_t lowest = exponent & (~static_cast<std::uint64_t>(exponent) + 1);
    const std::uint64_t carries = ((bits & kOnes * exponent) + kOnes * lowest) & kOnes << (kBits - 1);
    const std::uint64_t kept = (carries >> (kBits - kShift - 4)) - (carries >> (kBits - kShift - 1));
    return bits ^ (masks & ~kept);
  }
};

/// Flips the lowest bit of bytes. `kept`: bits that E4M3's largest value and NaN (0x7E), or E8M0's and NaN (0xFE), have
/// in common, and which stay as they are; 0 for other types.
struct FlipLowest {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = true;
  std::uint8_t kept;

  KOKKOS_INLINE_FUNCTION std::uint8_t operator()(std::uint8_t bits, std::int64_t, std::int64_t) const {
    return kept != 0 && (bits & kept) == kept ? bits : static_cast<std::uint8_t>(bits ^ 1U);
  }

  /// Changes all elements of a word at once likewise.
  KOKKOS_INLINE_FUNCTION std::uint64_t word(std::uint64_t bits, std::int64_t) const {
    constexpr std::uint64_t kOnes = 0x0101010101010101ULL;
    if (kept == 0) return bits ^ kOnes;
    // Bits 1 to 6, all set, and 2 carry into bit 7, which E8M0 must have set itself too.
    std::uint64_t carries = (bits & kOnes * 0x7EU) + kOnes * 2U;
    if (kept == 0xFEU) carries &= bits;
    return bits ^ (kOnes & ~(carries >> 7));
  }
};

std::uint8_t kept_bits(DType dtype) {
  if (dtype == DType::f8_e4m3) return 0x7EU;
  return dtype == DType::f8_e8m0 || dtype == DType::u8 ? 0xFEU : 0U;
}

std::uint32_t exponent_mask(DType dtype) {
  if (dtype == DType::f32) return 0x7F800000U;
  if (dtype == DType::f16) return 0x7C00U;
  return dtype == DType::bf16 ? 0x7F80U : 0U;
}

/// Returns a double as one byte: an E4M3 value (saturated), else the nearest whole number.
KOKKOS_INLINE_FUNCTION std::uint32_t byte_from_double(double value, DType to) {
  if (to != DType::f8_e4m3) return static_cast<std::uint32_t>(value + 0.5);
  const std::uint64_t magnitude = round_magnitude(value, 3, -6);
  return (value < 0 ? 0x80U : 0U) | (magnitude < 0x7EU ? static_cast<std::uint32_t>(magnitude) : 0x7EU);
}

template <typename Bits>
struct Deviate {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  std::uint64_t key;
  double mean;
  double unit;
  DType dtype;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits, std::int64_t index, std::int64_t) const {
    const std::uint64_t random = combine(key, static_cast<std::uint64_t>(index));
    if (dtype == DType::i32) return static_cast<Bits>(random >> 16);
    const std::uint64_t sum = (random & 0xFFFFU) + (random >> 16 & 0xFFFFU) + (random >> 32 & 0xFFFFU) + (random >> 48);
    const double deviate = static_cast<double>(static_cast<std::int64_t>(sum) - 2 * 0xFFFF);
    const double value = mean + unit * deviate;
    return static_cast<Bits>(sizeof(Bits) == 1 ? byte_from_double(value, dtype) : bits_from_double(value, dtype));
  }
};

/// Returns scale x the distance of neighbouring deviates, cut to 32 bits: its product with an 18-bit deviate is then
/// exact, and the value is the same whether or not a compiler fuses the product with the sum.
double deviate_unit(double scale) {
  constexpr double kUnit = 1.7320508075688772 / 65536.0;  // four uniforms of variance 1/12 have variance 1/3
  int exponent = 0;
  const double digits = std::frexp(scale * kUnit, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(digits, 32)), exponent - 32);
}

}  // namespace

void perturb(const ExecutionSpace& space, const Region& region, std::uint64_t key, std::int64_t step) {
  static const std::string label = "refit::perturb";
  const std::uint32_t exponent = exponent_mask(region.dtype);
  const std::uint64_t mixed = combine(key, static_cast<std::uint64_t>(step));
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    if constexpr (sizeof(Bits) == 1) {
      for_each_element<Bits>(space, label, region, FlipLowest{kept_bits(region.dtype)});
    } else {
      constexpr int kShift = sizeof(Bits) == 4 ? perturbation_shift(DType::f32) : perturbation_shift(DType::bf16);
      if constexpr (sizeof(Bits) == 2) {
        constexpr int kOfHalves = perturbation_shift(DType::f16);
        if (region.dtype == DType::f16)
          return for_each_element<Bits>(space, label, region, Perturb<Bits, kOfHalves>{mixed, 0x7C00U});
      }
      for_each_element<Bits>(space, label, region, Perturb<Bits, kShift>{mixed, static_cast<Bits>(exponent)});
    }
  });
}

void synthesise(const ExecutionSpace& space, const Region& region, std::uint64_t key, double mean, double scale) {
  static const std::string label = "refit::synthesise";
  REFIT_ASSERT(is_castable(region.dtype) || byte_size(region.dtype) == 1 || region.dtype == DType::i32);
  const double unit = deviate_unit(scale);
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Deviate<Bits>{key, mean, unit, region.dtype});
  });
}

void flip_bit(const ExecutionSpace& space, std::byte* byte) {
  static const std::string label = "refit::flip_bit";
  const Region region{byte, DType::u8, Box::whole({1}), {1}, {1}};
  for_each_element<std::uint8_t>(space, label, region, Perturb<std::uint8_t, 0>{0, 0});
  space.fence();
}

}  // namespace refit::kernels
