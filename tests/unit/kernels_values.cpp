// Values that are no numbers or that a cast rounds, and differences, counted over strided regions and compared with a
// loop over elements that decides by arithmetic instead of bits.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels_random.hpp"
#include "support/number_oracle.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

/// A float of `exponent` and `mantissa` bits, with an infinity, as a double.
double value_of(std::uint64_t bits, int exponent, int mantissa) {
  const std::uint64_t digits = bits & ((1ULL << mantissa) - 1);
  const auto biased = static_cast<int>((bits >> mantissa) & ((1ULL << exponent) - 1));
  const int bias = (1 << (exponent - 1)) - 1;
  if (biased == (1 << exponent) - 1) return digits == 0 ? HUGE_VAL : std::nan("");
  const double fraction = static_cast<double>(digits) / static_cast<double>(1ULL << mantissa);
  return biased == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, biased - bias);
}

double value_of(std::uint64_t bits, DType dtype) {
  switch (dtype) {
    case DType::f64: return value_of(bits, 11, 52);
    case DType::f32: return value_of(bits, 8, 23);
    case DType::f16: return value_of(bits, 5, 10);
    case DType::bf16: return value_of(bits, 8, 7);
    case DType::f8_e5m2: return value_of(bits, 5, 2);
    case DType::f8_e4m3: return (bits & 0x7FU) == 0x7FU ? std::nan("") : 1.0;
    case DType::f8_e8m0: return bits == 0xFFU ? std::nan("") : 1.0;
    default: return 1.0;  // whole numbers
  }
}

struct Array {
  Extents extent;
  Extents strides;
  Bytes memory;
  Region region;

  Array(Random& random, DType dtype, std::int64_t largest)
      : extent(random_extent(random, static_cast<int>(pick(random, 1, 4)), largest)),
        strides(random_strides(random, extent)),
        memory(random_memory(random, extent, strides, dtype)),
        region{memory.data(), dtype, Box::whole(extent), extent, strides} {}

  template <typename Test>
  std::int64_t count(const Test& test) const {
    std::int64_t result = 0;
    for_each_index(extent, [&](const Extents& index, std::int64_t) {
      result += test(read_bits(memory.data(), offset_of(index, strides), region.dtype)) ? 1 : 0;
    });
    return result;
  }
};

TEST(CountNotFinite, IsWhatArithmeticSays) {
  Random random(21);
  const ExecutionSpace space;
  for (DType dtype : kAllTypes) {
    std::int64_t found = 0;
    for (int i = 0; i < 30; ++i) {
      Array array(random, dtype, 14);
      // Random bytes are seldom all ones: every third element gets its upper bits set, one way or the other.
      for_each_index(array.extent, [&](const Extents& index, std::int64_t linear) {
        if (linear % 3 != 0) return;
        const std::int64_t at = offset_of(index, array.strides);
        const std::uint64_t ones = (~0ULL >> (64 - 8 * byte_size(dtype))) << pick(random, 0, 3 * byte_size(dtype));
        write_bits(array.memory.data(), at, dtype, read_bits(array.memory.data(), at, dtype) | ones);
      });
      const std::int64_t expected =
          array.count([&](std::uint64_t bits) { return !std::isfinite(value_of(bits, dtype)); });
      ASSERT_EQ(count_not_finite(space, array.region), expected) << name(dtype);
      found += expected;
    }
    const bool is_float = dtype <= DType::f8_e8m0;
    EXPECT_EQ(found > 0, is_float) << name(dtype);
  }
}

/// A value is rounded unless one of all values of the other type is equal to it.
TEST(CountRounded, IsWhatArithmeticSays) {
  Random random(22);
  const ExecutionSpace space;
  for (DType from : kCastable) {
    for (DType to : kCastable) {
      const int mantissa = to == DType::f32 ? 23 : (to == DType::f16 ? 10 : 7);
      const int lowest = to == DType::f16 ? -14 : -126;
      const int highest = to == DType::f16 ? 15 : 127;
      const auto is_rounded = [&](std::uint64_t bits) {
        const double value = value_of(bits, from);
        if (!std::isfinite(value) || value == 0) return false;  // infinity stays, NaN is no value
        const int unit = std::max(std::ilogb(value), lowest) - mantissa;
        const double units = std::ldexp(value, -unit);
        return units != std::floor(units) || std::ilogb(value) > highest;
      };
      std::int64_t found = 0;
      for (int i = 0; i < 30; ++i) {
        Array array(random, from, 14);
        for_each_index(array.extent, [&](const Extents& index, std::int64_t linear) {
          if (linear % 2 != 0) return;  // values that other types have, now and then
          const std::int64_t at = offset_of(index, array.strides);
          const std::uint64_t bits =
              convert_bits(static_cast<std::uint32_t>(0x3F00U + linear % 512), DType::bf16, from);
          write_bits(array.memory.data(), at, from, bits);
        });
        const std::int64_t expected = array.count(is_rounded);
        ASSERT_EQ(count_rounded(space, array.region, to), expected) << name(from) << " " << name(to);
        found += expected;
      }
      const bool never = from == to || to == DType::f32;
      EXPECT_EQ(found == 0, never) << name(from) << " " << name(to);
    }
  }
}

/// Counts and first elements are those of numbers that are decoded, transformed and encoded again.
TEST(CountOverflows, IsWhatArithmeticSays) {
  Random random(24);
  const ExecutionSpace space;
  using test_support::converted;
  for (DType from : kCastable) {
    for (DType to : kCastable) {
      for (Transform how : {Transform::none, Transform::add_one, Transform::subtract_one, Transform::negative_exp}) {
        std::int64_t found = 0;
        for (int i = 0; i < 20; ++i) {
          Array array(random, from, 14);
          // Random exponents are seldom those of the largest values.
          for_each_index(array.extent, [&](const Extents& index, std::int64_t linear) {
            if (linear % 3 == 0) return;
            const std::uint32_t near[] = {0x477FEFFFU, 0x477FF000U, 0x477FE000U, 0x47800000U, 0xC77FF000U, 0x7F7FFFFFU,
                                          0x7F7F7FFFU, 0x7F7F8000U, 0x7F800000U, 0x7FC00000U, 0x42B17218U, 0x42C80000U};
            const std::uint32_t bits = near[pick(random, 0, 11)];
            write_bits(array.memory.data(), offset_of(index, array.strides), from,
                       convert_bits(bits, DType::f32, from));
          });
          const auto overflows = [&](std::uint64_t bits) {
            if (!std::isfinite(value_of(bits, from))) return false;
            return !std::isfinite(value_of(converted(bits, from, to, how), to));
          };
          Difference expected;
          for_each_index(array.extent, [&](const Extents& index, std::int64_t linear) {
            if (!overflows(read_bits(array.memory.data(), offset_of(index, array.strides), from))) return;
            if (expected.count++ == 0) expected.first = linear;
          });
          const Difference counted = count_overflows(space, array.region, to, how);
          ASSERT_EQ(counted.count, expected.count) << name(from) << " " << name(to) << " " << static_cast<int>(how);
          ASSERT_EQ(counted.first, expected.first) << name(from) << " " << name(to) << " " << static_cast<int>(how);
          found += expected.count;
        }
        const bool narrower = to == DType::f16 ? from != DType::f16 : to == DType::bf16 && from == DType::f32;
        EXPECT_EQ(found > 0, narrower || how == Transform::negative_exp) << name(from) << " " << name(to);
      }
    }
  }
}

/// 65504 is the largest number of F16, and 65520 the first that rounds to infinity.
TEST(CountOverflows, TiesAtTheLargestNumber) {
  const ExecutionSpace space;
  const float values[] = {65504.0F, 65519.996F, 65520.0F, -65519.996F, -65520.0F, 65536.0F, 70000.0F};
  const std::uint64_t as_f16[] = {0x7BFF, 0x7BFF, 0x7C00, 0xFBFF, 0xFC00, 0x7C00, 0x7C00};
  const SharedBuffer memory(sizeof values);
  std::memcpy(memory.data(), values, sizeof values);
  const Region region{memory.data(), DType::f32, Box::whole({7}), {7}, {1}};
  for (std::size_t i = 0; i < 7; ++i)
    EXPECT_EQ(convert_bits(std::bit_cast<std::uint32_t>(values[i]), DType::f32, DType::f16), as_f16[i]) << values[i];
  const Difference counted = count_overflows(space, region, DType::f16);
  EXPECT_EQ(counted.count, 4);
  EXPECT_EQ(counted.first, 2);
}

/// Regions of several items, with any part of them different.
TEST(CountDifferences, OfLargeRegionsIsWhatALoopFinds) {
  Random random(23);
  const ExecutionSpace space;
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::i64}) {
    for (const Extents& strides : {Extents{700, 1}, Extents{1, 900}, Extents{1401, 2}}) {
      const Extents extent{900, 700};
      Bytes memory = random_memory(random, extent, strides, dtype);
      Bytes expected(static_cast<std::size_t>(product(extent) * byte_size(dtype)));
      const std::int64_t share = pick(random, 0, 3);  // none, all, or some
      std::int64_t count = 0;
      std::int64_t first = -1;
      for_each_index(extent, [&](const Extents& index, std::int64_t linear) {
        const std::uint64_t bits = read_bits(memory.data(), offset_of(index, strides), dtype);
        const bool differs = share > 0 && pick(random, 1, share * share) == 1;
        write_bits(expected.data(), linear, dtype, bits ^ (differs ? 1ULL << (8 * byte_size(dtype) - 1) : 0));
        count += differs ? 1 : 0;
        if (differs && first < 0) first = linear;
      });
      const Region region{memory.data(), dtype, Box::whole(extent), extent, strides};
      const Difference found = count_differences(space, region, expected.data());
      ASSERT_EQ(found.count, count);
      ASSERT_EQ(found.first, first);
    }
  }
}

}  // namespace
}  // namespace refit::kernels
