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

/// A float from which a double is rounded to a narrower type as if directly: towards zero, and odd where that loses
/// digits.
REFIT_FORCEINLINE std::uint32_t odd_float(double value) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  const std::uint32_t beyond = __builtin_fabs(back) > __builtin_fabs(value) ? 1U : 0U;
  const std::uint32_t lost = back != value ? 1U : 0U;
  return (std::bit_cast<std::uint32_t>(nearest) - beyond) | lost;
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

#define REFIT_ADD_ELEMENTS(TYPE)                                                                                       \
  REFIT_HOST_VECTORS void add_elements(TYPE, double factor, const std::byte* data, std::int64_t count, double* sums) { \
    for (std::int64_t c = 0; c < count; ++c) sums[c] += factor * value_at<TYPE>(data, c);                              \
  }
REFIT_ADD_ELEMENTS(F32)
REFIT_ADD_ELEMENTS(F16)
REFIT_ADD_ELEMENTS(BF16)
#undef REFIT_ADD_ELEMENTS

void add_elements(DType dtype, double factor, const std::byte* data, std::int64_t count, double* sums) {
  with_types(dtype, dtype, [&](auto type, auto) { add_elements(type, factor, data, count, sums); });
}

REFIT_HOST_VECTORS void narrow(F32, const double* values, std::int64_t count, std::byte* out) {
  for (std::int64_t c = 0; c < count; ++c) store(out, c, std::bit_cast<std::uint32_t>(static_cast<float>(values[c])));
}

REFIT_HOST_VECTORS void narrow(BF16, const double* values, std::int64_t count, std::byte* out) {
  for (std::int64_t c = 0; c < count; ++c) store(out, c, convert<F32, BF16>(odd_float(values[c])));
}

REFIT_HOST_VECTORS void narrow(F16, const double* values, std::int64_t count, std::byte* out) {
  for (std::int64_t c = 0; c < count; ++c) store(out, c, convert<F32, F16>(odd_float(values[c])));
}

void narrow(DType dtype, const double* values, std::int64_t count, std::byte* out) {
  with_types(dtype, dtype, [&](auto type, auto) { narrow(type, values, count, out); });
}

REFIT_HOST_VECTORS void add_scaled(double factor, const double* values, std::int64_t count, double* sums) {
  for (std::int64_t c = 0; c < count; ++c) sums[c] += factor * values[c];
}

REFIT_HOST_VECTORS void add_product(double scaling, const double* sums, std::int64_t count, double* values) {
  for (std::int64_t c = 0; c < count; ++c) values[c] = std::fma(scaling, sums[c], values[c]);
}

}  // namespace refit::kernels
