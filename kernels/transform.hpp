#pragma once
// Transforms of single values (core/format.hpp), with equal bits on every processor: only additions, multiplications by
// powers of two and explicit fused multiply-adds, all exactly defined; nothing that a compiler could contract, and no
// math library, whose exp differs between hosts and devices.

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/format.hpp"
#include "kernels/bits.hpp"

namespace refit::kernels {

/// Returns 2^exponent for -1022 <= exponent <= 1023.
REFIT_FUNCTION double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(1023 + exponent) << 52);
}

/// Returns exp(x), less than one unit in the last place off; subnormal results, infinity and 0 included. Not for NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, exp(x) = 2^n exp(r), and exp(r) is its Taylor polynomial of degree 13, whose
/// remainder is below 2^-57. The upper part of ln 2 has 42 bits and n at most 11, so that x - n ln 2 loses nothing.
REFIT_FUNCTION double fused_exp(double x) {
  constexpr double kLog2E = 0x1.71547652b82fep0;
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  constexpr double kInteger = 0x1.8p52;  // added to a small number, it rounds that to an integer
  constexpr double kBound = 800.0;       // beyond, results are 0 and infinity as at the bound itself
  x = x > kBound ? kBound : (x < -kBound ? -kBound : x);
  const double n = std::fma(x, kLog2E, kInteger) - kInteger;
  const double r = std::fma(-n, kLn2Low, std::fma(-n, kLn2High, x));
  double sum = 1.0 / 6227020800.0;  // 1 / 13!
  sum = std::fma(sum, r, 1.0 / 479001600.0);
  sum = std::fma(sum, r, 1.0 / 39916800.0);
  sum = std::fma(sum, r, 1.0 / 3628800.0);
  sum = std::fma(sum, r, 1.0 / 362880.0);
  sum = std::fma(sum, r, 1.0 / 40320.0);
  sum = std::fma(sum, r, 1.0 / 5040.0);
  sum = std::fma(sum, r, 1.0 / 720.0);
  sum = std::fma(sum, r, 1.0 / 120.0);
  sum = std::fma(sum, r, 1.0 / 24.0);
  sum = std::fma(sum, r, 1.0 / 6.0);
  sum = std::fma(sum, r, 0.5);
  sum = std::fma(sum, r, 1.0);
  sum = std::fma(sum, r, 1.0);
  // The scaling has two steps, as 2^n alone may not be a double: the first is exact, the second rounds where the result
  // is subnormal.
  const int exponent = static_cast<int>(n);
  const int half = exponent / 2;
  return sum * power_of_two(half) * power_of_two(exponent - half);
}

REFIT_FUNCTION double transformed_value(double value, Transform transform) {
  if (transform == Transform::add_one) return value + 1.0;
  if (transform == Transform::subtract_one) return value - 1.0;
  if (transform == Transform::negative_exp) return -fused_exp(value);
  return value;
}

/// Returns the bits of one value, transformed in double and rounded once. Every NaN becomes the one of bits 0 11..1
/// 10..0: processors disagree on the sign and payload of a NaN that went through arithmetic.
template <typename From, typename To>
REFIT_FUNCTION typename To::Bits transformed(typename From::Bits bits, Transform transform) {
  const double value = std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits)));
  if (value != value) return To::kQuietNan;
  return static_cast<typename To::Bits>(bits_from_double(transformed_value(value, transform), To::kType));
}

}  // namespace refit::kernels
