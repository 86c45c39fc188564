// Conversions against arithmetic on decoded values: decode to long double, divide by the target's unit, round, encode.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "kernels/kernels.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

struct Format {
  int exponent_bits, mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint32_t infinity() const { return ((1U << exponent_bits) - 1U) << mantissa_bits; }
  std::uint32_t sign() const { return 1U << (exponent_bits + mantissa_bits); }
  std::uint32_t quiet() const { return 1U << (mantissa_bits - 1); }
};

Format format_of(DType dtype) {
  if (dtype == DType::f32) return {8, 23};
  return dtype == DType::f16 ? Format{5, 10} : Format{8, 7};
}

/// The magnitude of finite bits.
long double decode(std::uint32_t bits, const Format& format) {
  const std::uint32_t magnitude = bits & (format.sign() - 1U);
  const int exponent = static_cast<int>(magnitude >> format.mantissa_bits);
  const std::uint32_t mantissa = magnitude & ((1U << format.mantissa_bits) - 1U);
  const int unit = (exponent == 0 ? 1 : exponent) - format.bias() - format.mantissa_bits;
  return std::ldexp(static_cast<long double>(mantissa + (exponent == 0 ? 0U : 1U << format.mantissa_bits)), unit);
}

std::uint32_t encode(long double magnitude, const Format& format) {
  if (magnitude == 0) return 0;
  int exponent = std::max(std::ilogb(magnitude), 1 - format.bias());
  long double digits = std::nearbyint(std::ldexp(magnitude, format.mantissa_bits - exponent));
  if (digits == std::ldexp(1.0L, format.mantissa_bits + 1)) {
    digits /= 2;
    ++exponent;
  }
  if (exponent > format.bias()) return format.infinity();
  const auto whole = static_cast<std::uint32_t>(digits);
  const std::uint32_t leading = 1U << format.mantissa_bits;
  if (whole < leading) return whole;
  return (static_cast<std::uint32_t>(exponent + format.bias()) << format.mantissa_bits) + (whole - leading);
}

void check(std::uint32_t bits, DType from, DType to) {
  const Format source = format_of(from);
  const Format target = format_of(to);
  const std::uint32_t result = convert_bits(bits, from, to);
  const std::uint32_t sign = (bits & source.sign()) != 0 ? target.sign() : 0U;
  const std::uint32_t magnitude = bits & (source.sign() - 1U);
  ASSERT_EQ(result & target.sign(), sign) << std::hex << bits;
  if (magnitude > source.infinity()) {
    ASSERT_GT(result & (target.sign() - 1U), target.infinity()) << std::hex << bits;
    ASSERT_NE(result & target.quiet(), 0U) << std::hex << bits;
  } else if (magnitude == source.infinity()) {
    ASSERT_EQ(result, sign | target.infinity());
  } else {
    ASSERT_EQ(result, sign | encode(decode(bits, source), target)) << std::hex << bits << " " << name(from) << name(to);
  }
}

TEST(ConvertBits, EveryPatternOfTheShortTypes) {
  for (DType from : {DType::f16, DType::bf16}) {
    for (DType to : {DType::f32, DType::f16, DType::bf16}) {
      for (std::uint32_t bits = 0; bits < 65536U; ++bits) {
        if (from != to) check(bits, from, to);
      }
    }
  }
}

TEST(ConvertBits, FloatAndBackIsTheSameValue) {
  for (DType from : {DType::f16, DType::bf16}) {
    const Format format = format_of(from);
    for (std::uint32_t bits = 0; bits < 65536U; ++bits) {
      const bool nan = (bits & (format.sign() - 1U)) > format.infinity();
      const std::uint32_t back = convert_bits(convert_bits(bits, from, DType::f32), DType::f32, from);
      ASSERT_EQ(back, nan ? bits | format.quiet() : bits);
    }
  }
}

TEST(ConvertBits, EqualTypesMoveBits) {
  for (std::uint32_t bits : {0x7FA00001U, 0xFF800001U, 0x00000001U, 0x80000000U}) {
    EXPECT_EQ(convert_bits(bits, DType::f32, DType::f32), bits);
  }
  EXPECT_EQ(convert_bits(0x7F81U, DType::bf16, DType::bf16), 0x7F81U);
}

TEST(ConvertBits, FloatsAroundEveryShortValueAndItsTies) {
  for (DType to : {DType::f16, DType::bf16}) {
    for (std::uint32_t bits = 0; bits < 65536U; ++bits) {
      const std::uint32_t exact = convert_bits(bits, to, DType::f32);
      const std::uint32_t half = to == DType::bf16 ? 0x8000U : 0x1000U;
      for (std::uint32_t offset : {0U, 1U, ~0U, half, half - 1U, half + 1U, half + half / 2U}) {
        check(exact + offset, DType::f32, to);
      }
    }
  }
}

TEST(ConvertBits, SubnormalTiesAndRandomFloats) {
  // Halves and neighbours between F16 subnormals lie at odd multiples of 2^-25.
  for (int odd = 1; odd < 2049; ++odd) {
    const auto tie = std::bit_cast<std::uint32_t>(std::ldexp(static_cast<float>(odd), -25));
    for (std::uint32_t offset : {0U, 1U, ~0U}) check(tie + offset, DType::f32, DType::f16);
  }
  kernels_test::Random random(7);
  for (int i = 0; i < 1000000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    check(bits, DType::f32, DType::f16);
    check(bits, DType::f32, DType::bf16);
  }
}

}  // namespace
}  // namespace refit::kernels
