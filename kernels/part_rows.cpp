#include "kernels/part_rows.hpp"

namespace refit::kernels {

REFIT_HOST_VECTORS std::uint32_t largest_magnitude(F32, const std::byte* values, std::int64_t count) {
  return largest_of<F32>(values, count);
}
REFIT_HOST_VECTORS std::uint32_t largest_magnitude(F16, const std::byte* values, std::int64_t count) {
  return largest_of<F16>(values, count);
}
REFIT_HOST_VECTORS std::uint32_t largest_magnitude(BF16, const std::byte* values, std::int64_t count) {
  return largest_of<BF16>(values, count);
}

REFIT_SCALED_QUANTISERS(REFIT_DEFINE_STRETCHES)

}  // namespace refit::kernels
