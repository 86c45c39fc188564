#include "kernels/kernels.hpp"
#include "kernels/transform.hpp"

namespace refit::kernels {

std::uint32_t convert_bits(std::uint32_t bits, DType from, DType to, Transform transform) {
  REFIT_ASSERT(is_castable(from) && is_castable(to));
  std::uint32_t result = 0;
  with_types(from, to, [bits, transform, &result](auto source, auto target) {
    using From = decltype(source);
    using To = decltype(target);
    const auto stored = static_cast<typename From::Bits>(bits);
    result = transform == Transform::none ? convert<From, To>(stored) : transformed<From, To>(stored, transform);
  });
  return result;
}

}  // namespace refit::kernels
