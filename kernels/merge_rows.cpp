#include "kernels/merge_rows.hpp"

#include <bit>
#include <cmath>

#include "kernels/bits.hpp"

namespace refit::kernels {

namespace {

template <typename Type>
REFIT_FORCEINLINE double value_at(const std::byte* data, std::int64_t index) {
  const auto bits = load<typename Type::Bits>(data, index);
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(convert<Type, F32>(bits))));
}

}  // namespace

#define REFIT_WIDEN(TYPE)                                                                             \
  REFIT_HOST_VECTORS void widen(TYPE, const std::byte* data, std::int64_t stride, std::int64_t count, \
                                double* values) {                                                     \
    if (stride == 1) {                                                                                \
      for (std::int64_t c = 0; c < count; ++c) values[c] = value_at<TYPE>(data, c);                   \
    } else {                                                                                          \
      for (std::int64_t c = 0; c < count; ++c) values[c] = value_at<TYPE>(data, c * stride);          \
    }                                                                                                 \
  }
REFIT_WIDEN(F32)
REFIT_WIDEN(F16)
REFIT_WIDEN(BF16)
#undef REFIT_WIDEN

void widen(DType dtype, const std::byte* data, std::int64_t stride, std::int64_t count, double* values) {
  with_types(dtype, dtype, [&](auto type, auto) { widen(type, data, stride, count, values); });
}

REFIT_HOST_VECTORS void add_scaled(double factor, const double* values, std::int64_t count, double* sums) {
  for (std::int64_t c = 0; c < count; ++c) sums[c] += factor * values[c];
}

REFIT_HOST_VECTORS void add_product(double scaling, const double* sums, std::int64_t count, double* values) {
  for (std::int64_t c = 0; c < count; ++c) values[c] = std::fma(scaling, sums[c], values[c]);
}

}  // namespace refit::kernels
