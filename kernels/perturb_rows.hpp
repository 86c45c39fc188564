#pragma once
// The update of elements of a castable type (perturb in kernels.hpp), and of whole rows on hosts.

#include <cstddef>
#include <cstdint>

#include "kernels/bits.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

/// Returns the bits that are all set in infinity and NaN, which stay.
template <typename Type>
REFIT_FUNCTION constexpr std::uint32_t perturbation_exponent() {
  return Type::kType == DType::f32 ? 0x7F800000U : Type::kType == DType::f16 ? 0x7C00U : 0x7F80U;
}

/// Returns the own bits of an element among those of the four that begin at a multiple of 4.
REFIT_FUNCTION std::uint32_t own_bits(std::uint64_t of_four, std::int64_t index) {
  return static_cast<std::uint32_t>(of_four >> (16 * (index % 4))) & 0xFFFFU;
}

/// Returns an element with the change that its own random bits make.
template <typename Type>
REFIT_FUNCTION typename Type::Bits perturbed(typename Type::Bits bits, std::uint32_t own) {
  constexpr std::uint32_t kExponent = perturbation_exponent<Type>();
  const std::uint32_t mask = perturbation_mask(own) << perturbation_shift(Type::kType);
  return static_cast<typename Type::Bits>(bits ^ ((bits & kExponent) == kExponent ? 0U : mask));
}

/// Perturbs `count` elements, `stride` elements apart, whose global linear indices follow `index`; `mixed` is
/// combine(key, step). `data` need not be aligned.
void perturb_row(F32, std::byte* data, std::int64_t stride, std::int64_t count, std::uint64_t mixed,
                 std::int64_t index);
void perturb_row(F16, std::byte* data, std::int64_t stride, std::int64_t count, std::uint64_t mixed,
                 std::int64_t index);
void perturb_row(BF16, std::byte* data, std::int64_t stride, std::int64_t count, std::uint64_t mixed,
                 std::int64_t index);

}  // namespace refit::kernels
