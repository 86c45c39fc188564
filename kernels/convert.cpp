#include "kernels/bits.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

std::uint32_t convert_bits(std::uint32_t bits, DType from, DType to) {
  REFIT_ASSERT(is_castable(from) && is_castable(to));
  std::uint32_t result = 0;
  with_types(from, to, [bits, &result](auto source, auto target) {
    using From = decltype(source);
    result = convert<From, decltype(target)>(static_cast<typename From::Bits>(bits));
  });
  return result;
}

}  // namespace refit::kernels
