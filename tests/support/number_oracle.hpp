#pragma once
// Results of casts and transforms of a number, from the definition of the formats: decoded into a double, transformed,
// and rounded once to the nearest even. Shares nothing with kernels/.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/format.hpp"

namespace refit::test_support {

struct FloatFormat {
  int mantissa, exponent;  ///< bits
  int bias() const { return (1 << (exponent - 1)) - 1; }
};

inline FloatFormat float_format(DType dtype) {
  switch (dtype) {
    case DType::f32: return {23, 8};
    case DType::bf16: return {7, 8};
    case DType::f16: return {10, 5};
    default: fail_invariant("no float format for this type");
  }
}

/// Decodes a finite number.
inline double decoded(std::uint64_t bits, DType dtype) {
  const FloatFormat f = float_format(dtype);
  const auto mantissa = static_cast<double>(bits & ((std::uint64_t{1} << f.mantissa) - 1));
  const int exponent = static_cast<int>(bits >> f.mantissa) & ((1 << f.exponent) - 1);
  const bool negative = (bits >> (f.mantissa + f.exponent) & 1U) != 0;
  const double magnitude = exponent == 0
                               ? std::ldexp(mantissa, 1 - f.bias() - f.mantissa)
                               : std::ldexp(mantissa + std::ldexp(1.0, f.mantissa), exponent - f.bias() - f.mantissa);
  return negative ? -magnitude : magnitude;
}

/// Encodes a number that is not NaN.
inline std::uint64_t encoded(double value, DType dtype) {
  const FloatFormat f = float_format(dtype);
  const std::uint64_t sign = std::signbit(value) ? std::uint64_t{1} << (f.mantissa + f.exponent) : 0;
  const std::uint64_t infinity = ((std::uint64_t{1} << f.exponent) - 1) << f.mantissa;
  if (std::isinf(value)) return sign | infinity;
  int exponent = 0;
  std::frexp(value, &exponent);
  exponent = std::max(exponent - 1, 1 - f.bias());
  // The value is in units of the last place: a rounding up to the next power of two carries into the exponent's bits by
  // itself.
  const auto units = static_cast<std::uint64_t>(std::nearbyint(std::ldexp(std::fabs(value), f.mantissa - exponent)));
  const std::uint64_t implicit = std::uint64_t{1} << f.mantissa;
  if (units < implicit) return sign | units;  // subnormal, or zero
  const std::uint64_t bits = (static_cast<std::uint64_t>(exponent + f.bias()) << f.mantissa) + (units - implicit);
  return sign | std::min(bits, infinity);
}

inline double transformed(double value, Transform how) {
  switch (how) {
    case Transform::add_one: return value + 1.0;
    case Transform::subtract_one: return value - 1.0;
    case Transform::negative_exp: return -std::exp(value);
    default: return value;
  }
}

inline std::uint64_t converted(std::uint64_t bits, DType from, DType to, Transform how) {
  return encoded(transformed(decoded(bits, from), how), to);
}

}  // namespace refit::test_support
