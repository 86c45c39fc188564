#include "kernels/count.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/transform.hpp"

namespace refit::kernels {

namespace {

/// Returns the bits that are all set in NaN and infinity, and only there; 0 for a type that has neither.
std::uint64_t not_finite_mask(DType dtype) {
  switch (dtype) {
    case DType::f64: return 0x7FF0000000000000ULL;
    case DType::f32: return 0x7F800000U;
    case DType::f16: return 0x7C00U;
    case DType::bf16: return 0x7F80U;
    case DType::f8_e4m3: return 0x7FU;  // no infinity, one NaN of each sign
    case DType::f8_e5m2: return 0x7CU;
    case DType::f8_e8m0: return 0xFFU;
    default: return 0;
  }
}

template <typename Bits>
struct HasAll {
  Bits mask;

  KOKKOS_FORCEINLINE_FUNCTION bool operator()(Bits stored, std::int64_t) const { return (stored & mask) == mask; }
};

/// Test for values that do not come back from type To; NaN counts as coming back.
template <typename From, typename To>
struct IsRounded {
  using Bits = typename From::Bits;
  Bits infinity;

  KOKKOS_FORCEINLINE_FUNCTION bool operator()(Bits stored, std::int64_t) const {
    const auto magnitude = static_cast<Bits>(stored & static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1));
    return magnitude <= infinity && convert<To, From>(convert<From, To>(stored)) != stored;
  }
};

/// Test for finite values that are infinite as type To.
template <typename From, typename To>
struct Overflows {
  using Bits = typename From::Bits;
  Bits infinity;                  ///< of type From
  typename To::Bits to_infinity;  ///< of type To
  Transform transform;

  KOKKOS_FORCEINLINE_FUNCTION bool operator()(Bits stored, std::int64_t) const {
    const auto become =
        transform == Transform::none ? convert<From, To>(stored) : transformed<From, To>(stored, transform);
    return (stored & infinity) != infinity && (become & to_infinity) == to_infinity;
  }
};

/// Returns true where a finite value of type `from`, transformed, may be beyond the largest one of type `to`.
bool may_overflow(DType from, DType to, Transform transform) {
  const auto range = [](DType dtype) { return dtype == DType::f32 ? 2 : (dtype == DType::bf16 ? 1 : 0); };
  return transform == Transform::negative_exp || range(from) > range(to);
}

}  // namespace

std::int64_t count_not_finite(const ExecutionSpace& space, const Region& region) {
  static const std::string label = "refit::count_not_finite";
  const std::uint64_t mask = not_finite_mask(region.dtype);
  if (mask == 0) return 0;
  std::int64_t count = 0;
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    count = count_where<Bits>(space, label, region, HasAll<Bits>{static_cast<Bits>(mask)}).count;
  });
  return count;
}

std::int64_t count_rounded(const ExecutionSpace& space, const Region& region, DType to) {
  static const std::string label = "refit::count_rounded";
  REFIT_ASSERT(is_castable(region.dtype) && is_castable(to));
  std::int64_t count = 0;
  with_types(region.dtype, to, [&](auto source, auto target) {
    using From = decltype(source);
    using To = decltype(target);
    if constexpr (!std::is_same_v<From, To>) {
      using Bits = typename From::Bits;
      const IsRounded<From, To> test{static_cast<Bits>(not_finite_mask(region.dtype))};
      count = count_where<Bits>(space, label, region, test).count;
    }
  });
  return count;
}

Difference count_overflows(const ExecutionSpace& space, const Region& region, DType to, Transform transform) {
  static const std::string label = "refit::count_overflows";
  REFIT_ASSERT(is_castable(region.dtype) && is_castable(to) && transform != Transform::quantise);
  Difference result;
  if (!may_overflow(region.dtype, to, transform)) return result;
  with_types(region.dtype, to, [&](auto source, auto target) {
    using From = decltype(source);
    using To = decltype(target);
    const Overflows<From, To> test{static_cast<typename From::Bits>(not_finite_mask(region.dtype)),
                                   static_cast<typename To::Bits>(not_finite_mask(to)), transform};
    result = count_where<typename From::Bits>(space, label, region, test);
  });
  return result;
}

}  // namespace refit::kernels
