#include <cmath>

#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

template <typename Bits>
struct Perturb {
  std::uint64_t key;
  std::int64_t step;
  Bits exponent;  ///< all ones in the exponent of a castable type: NaN and infinity; 0 for other types
  int shift;

  KOKKOS_INLINE_FUNCTION void operator()(std::byte* address, std::int64_t index, std::int64_t) const {
    const Bits bits = load<Bits>(address, 0);
    if (exponent == 0) {
      store(address, 0, static_cast<Bits>(bits ^ 1U));
    } else if ((bits & exponent) != exponent) {
      store(address, 0, static_cast<Bits>(bits ^ (perturbation(key, index, step) << shift)));
    }
  }
};

std::uint32_t exponent_mask(DType dtype) {
  if (dtype == DType::f32) return 0x7F800000U;
  if (dtype == DType::f16) return 0x7C00U;
  return dtype == DType::bf16 ? 0x7F80U : 0U;
}

struct Deviate {
  std::uint64_t key;
  double mean;
  double unit;
  DType dtype;

  KOKKOS_INLINE_FUNCTION void operator()(std::byte* address, std::int64_t index, std::int64_t) const {
    const std::uint64_t random = combine(key, static_cast<std::uint64_t>(index));
    const std::uint64_t sum = (random & 0xFFFFU) + (random >> 16 & 0xFFFFU) + (random >> 32 & 0xFFFFU) + (random >> 48);
    const double deviate = static_cast<double>(static_cast<std::int64_t>(sum) - 2 * 0xFFFF);
    const std::uint32_t bits = bits_from_double(mean + unit * deviate, dtype);
    if (dtype == DType::f32) {
      store(address, 0, bits);
    } else {
      store(address, 0, static_cast<std::uint16_t>(bits));
    }
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
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Perturb<Bits>{key, step, static_cast<Bits>(exponent), shift});
  });
}

void synthesise(const ExecutionSpace& space, const Region& region, std::uint64_t key, double mean, double scale) {
  static const std::string label = "refit::synthesise";
  REFIT_ASSERT(is_castable(region.dtype));
  const Deviate deviate{key, mean, deviate_unit(scale), region.dtype};
  if (region.dtype == DType::f32) {
    for_each_element<std::uint32_t>(space, label, region, deviate);
  } else {
    for_each_element<std::uint16_t>(space, label, region, deviate);
  }
}

}  // namespace refit::kernels
