#include <cmath>

#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

/// perturbation(key, index, step) of mixed = combine(key, step). On devices the remainder of 64 bits by 7 is that of
/// their sum in digits of base 2^30, since 2^30 = 1 mod 7: a product of 64 bits, by which hosts divide, is many of
/// theirs.
KOKKOS_INLINE_FUNCTION std::uint32_t perturbation_of(std::uint64_t mixed, std::int64_t index) {
  [[maybe_unused]] constexpr std::uint64_t kDigit = (1ULL << 30) - 1;
  const std::uint64_t bits = splitmix64(mixed ^ (static_cast<std::uint64_t>(index) * 0x9E3779B97F4A7C15ULL));
  if constexpr (kOnHost) return 1U + static_cast<std::uint32_t>(bits % 7U);
  const std::uint32_t sum = static_cast<std::uint32_t>(bits & kDigit) +
                            static_cast<std::uint32_t>(bits >> 30 & kDigit) + static_cast<std::uint32_t>(bits >> 60);
  return 1U + sum % 7U;
}

template <typename Bits>
struct Perturb {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  std::uint64_t mixed;  ///< key and step
  Bits exponent;        ///< all ones in the exponent of a castable type: NaN and infinity; 0 for other types
  int shift;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits bits, std::int64_t index, std::int64_t) const {
    if (exponent == 0) return static_cast<Bits>(bits ^ 1U);
    const Bits mask = static_cast<Bits>(perturbation_of(mixed, index) << shift);
    return (bits & exponent) == exponent ? bits : static_cast<Bits>(bits ^ mask);
  }
};

std::uint32_t exponent_mask(DType dtype) {
  if (dtype == DType::f32) return 0x7F800000U;
  if (dtype == DType::f16) return 0x7C00U;
  return dtype == DType::bf16 ? 0x7F80U : 0U;
}

template <typename Bits>
struct Deviate {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  std::uint64_t key;
  double mean;
  double unit;
  DType dtype;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits, std::int64_t index, std::int64_t) const {
    const std::uint64_t random = combine(key, static_cast<std::uint64_t>(index));
    const std::uint64_t sum = (random & 0xFFFFU) + (random >> 16 & 0xFFFFU) + (random >> 32 & 0xFFFFU) + (random >> 48);
    const double deviate = static_cast<double>(static_cast<std::int64_t>(sum) - 2 * 0xFFFF);
    return static_cast<Bits>(bits_from_double(mean + unit * deviate, dtype));
  }
};

/// scale x the distance of neighbouring deviates, cut to 32 bits: its product with an 18-bit deviate is then exact, and
/// the value is the same whether or not a compiler fuses the product with the sum.
double deviate_unit(double scale) {
  constexpr double kUnit = 1.7320508075688772 / 65536.0;  // four uniforms of variance 1/12 have variance 1/3
  int exponent = 0;
  const double digits = std::frexp(scale * kUnit, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(digits, 32)), exponent - 32);
}

}  // namespace

void perturb(const ExecutionSpace& space, const Region& region, std::uint64_t key, std::int64_t step) {
  static const std::string label = "refit::perturb";
  const int shift = region.dtype == DType::f32 ? 16 : 0;
  const std::uint32_t exponent = exponent_mask(region.dtype);
  const std::uint64_t mixed = combine(key, static_cast<std::uint64_t>(step));
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Perturb<Bits>{mixed, static_cast<Bits>(exponent), shift});
  });
}

void synthesise(const ExecutionSpace& space, const Region& region, std::uint64_t key, double mean, double scale) {
  static const std::string label = "refit::synthesise";
  REFIT_ASSERT(is_castable(region.dtype));
  const double unit = deviate_unit(scale);
  if (region.dtype == DType::f32) {
    for_each_element<std::uint32_t>(space, label, region, Deviate<std::uint32_t>{key, mean, unit, region.dtype});
  } else {
    for_each_element<std::uint16_t>(space, label, region, Deviate<std::uint16_t>{key, mean, unit, region.dtype});
  }
}

void flip_bit(const ExecutionSpace& space, std::byte* byte) {
  static const std::string label = "refit::flip_bit";
  const Region region{byte, DType::u8, Box::whole({1}), {1}, {1}};
  for_each_element<std::uint8_t>(space, label, region, Perturb<std::uint8_t>{0, 0, 0});
  space.fence();
}

}  // namespace refit::kernels
