#include "kernels/sum_row.hpp"

#include "kernels/quantiser.hpp"

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

REFIT_HOST_VECTORS void scale_bytes(const std::byte* bytes, float scale, std::int64_t count, float* values) {
  for (std::int64_t c = 0; c < count; ++c) values[c] = f32_from_e4m3(load<std::uint8_t>(bytes, c)) * scale;
}

}  // namespace refit::kernels
