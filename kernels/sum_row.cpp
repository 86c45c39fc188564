#include "kernels/sum_row.hpp"

namespace refit::kernels {

#define REFIT_SUM_ROW(FROM)                                                                                       \
  REFIT_HOST_VECTORS std::uint64_t sum_row(FROM, const std::byte* data, const float* signs, std::int64_t count) { \
    std::uint64_t sum = 0;                                                                                        \
    for (std::int64_t c = 0; c < count; ++c) {                                                                    \
      sum += fixed_point(value_of<FROM>(load<FROM::Bits>(data, c)), signs[c]);                                    \
    }                                                                                                             \
    return sum - static_cast<std::uint64_t>(count) * std::bit_cast<std::uint64_t>(kMagic);                        \
  }
REFIT_SUM_ROW(F32)
REFIT_SUM_ROW(F16)
REFIT_SUM_ROW(BF16)
#undef REFIT_SUM_ROW

}  // namespace refit::kernels
