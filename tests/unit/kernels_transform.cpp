// Transforms against long double arithmetic, and the copies and fingerprints that use them against convert_bits.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "kernels/transform.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

constexpr Transform kTransforms[] = {Transform::add_one, Transform::subtract_one, Transform::negative_exp};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Units in the last place between fused_exp(x) and exp(x); a subnormal result's unit is 2^-1074.
double error_of(double x) {
  const long double exact = std::exp(static_cast<long double>(x));
  const int exponent = std::max(std::ilogb(exact), -1022);
  const long double distance = std::abs(static_cast<long double>(fused_exp(x)) - exact);
  return static_cast<double>(std::ldexp(distance, 52 - exponent));
}

TEST(FusedExp, LessThanOneUnitOffEverywhere) {
  Random random(1);
  double largest = 0;
  for (double x = -746; x < 709.78; x += 0.0007321) largest = std::max(largest, error_of(x));
  for (int i = 0; i < 1000000; ++i) {
    const double x = std::ldexp(static_cast<double>(random() >> 11), static_cast<int>(pick(random, -120, -44)));
    largest = std::max({largest, error_of(-x), x < 709.78 ? error_of(x) : 0.0});
  }
  EXPECT_LT(largest, 1.0);
}

TEST(FusedExp, LimitsAndEndsOfTheRange) {
  EXPECT_EQ(fused_exp(0.0), 1.0);
  EXPECT_EQ(fused_exp(-0.0), 1.0);
  EXPECT_EQ(fused_exp(kInfinity), kInfinity);
  EXPECT_EQ(fused_exp(-kInfinity), 0.0);
  EXPECT_EQ(fused_exp(std::numeric_limits<double>::max()), kInfinity);
  EXPECT_EQ(fused_exp(std::numeric_limits<double>::lowest()), 0.0);
  EXPECT_EQ(fused_exp(0x1.62e42fefa39fp+9), kInfinity);  // the first double beyond ln(2^1024)
  EXPECT_LT(fused_exp(0x1.62e42fefa39efp+9), kInfinity);
  EXPECT_EQ(fused_exp(-745.0), std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(fused_exp(-745.2), 0.0);
}

/// The transformed value with eleven more bits than a double's.
long double expected_value(float x, Transform transform) {
  const auto wide = static_cast<long double>(x);
  if (transform == Transform::negative_exp) return -std::exp(wide);
  return transform == Transform::add_one ? wide + 1 : wide - 1;
}

void check(std::uint32_t bits, DType from, DType to, Transform transform) {
  const float x = std::bit_cast<float>(convert_bits(bits, from, DType::f32));
  const std::uint32_t found = convert_bits(bits, from, to, transform);
  if (std::isnan(x)) {
    ASSERT_EQ(found, to == DType::f32 ? 0x7FC00000U : (to == DType::bf16 ? 0x7FC0U : 0x7E00U));
  } else if (to == DType::f32) {
    ASSERT_EQ(found, std::bit_cast<std::uint32_t>(static_cast<float>(expected_value(x, transform)))) << x;
  } else {
    ASSERT_EQ(found, bits_from_double(static_cast<double>(expected_value(x, transform)), to)) << x;
  }
}

TEST(Transform, EveryShortValue) {
  for (DType from : {DType::bf16, DType::f16}) {
    for (DType to : kCastable) {
      for (Transform transform : kTransforms) {
        for (std::uint32_t bits = 0; bits < 65536U; ++bits) check(bits, from, to, transform);
      }
    }
  }
}

TEST(Transform, RandomFloats) {
  Random random(2);
  for (Transform transform : kTransforms) {
    for (int i = 0; i < 1000000; ++i) {
      const float near = std::ldexp(static_cast<float>(pick(random, -1 << 24, 1 << 24)), -17);  // -128 to 128
      for (DType to : kCastable) check(std::bit_cast<std::uint32_t>(near), DType::f32, to, transform);
      check(static_cast<std::uint32_t>(random()), DType::f32, DType::f32, transform);
    }
  }
}

TEST(Transform, RoundsOnceToShortTypes) {
  // Just above a tie between 1 and the next short value: through a float it would become the tie, and round down.
  const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value); };
  EXPECT_EQ(convert_bits(bits(0x1p-8F + 0x1p-30F), DType::f32, DType::bf16, Transform::add_one), 0x3F81U);
  EXPECT_EQ(convert_bits(bits(0x1p-8F), DType::f32, DType::bf16, Transform::add_one), 0x3F80U);
  EXPECT_EQ(convert_bits(bits(0x1p-11F + 0x1p-34F), DType::f32, DType::f16, Transform::add_one), 0x3C01U);
}

TEST(Transform, ZeroAndInfinity) {
  const std::uint32_t minus_infinity = 0xFF800000U;
  EXPECT_EQ(convert_bits(0, DType::f32, DType::f32, Transform::negative_exp), 0xBF800000U);
  EXPECT_EQ(convert_bits(minus_infinity, DType::f32, DType::f32, Transform::negative_exp), 0x80000000U);
  EXPECT_EQ(convert_bits(0x7F80U, DType::bf16, DType::f32, Transform::negative_exp), minus_infinity);
  EXPECT_EQ(convert_bits(0x7F80U, DType::bf16, DType::f16, Transform::subtract_one), 0x7C00U);
  EXPECT_EQ(convert_bits(0xBF80U, DType::bf16, DType::bf16, Transform::add_one), 0U);
  EXPECT_EQ(convert_bits(0xFFFFU, DType::bf16, DType::bf16, Transform::add_one), 0x7FC0U);
}

struct Source {
  Extents extent, strides;
  DType dtype;
  Bytes memory;
};

Source random_source(Random& random, DType dtype) {
  Source result{random_extent(random, static_cast<int>(pick(random, 0, 4)), 13), {}, dtype, {}};
  result.strides = random_strides(random, result.extent);
  result.memory = random_memory(random, result.extent, result.strides, dtype);
  return result;
}

std::uint32_t transformed_at(const Source& source, const Extents& index, DType to, Transform transform) {
  const std::uint64_t bits = read_bits(source.memory.data(), offset_of(index, source.strides), source.dtype);
  return convert_bits(static_cast<std::uint32_t>(bits), source.dtype, to, transform);
}

void check_copy(Random& random, DType from, DType to, Transform transform) {
  const Source source = random_source(random, from);
  const Extents strides = random_strides(random, source.extent);
  Bytes destination = random_memory(random, source.extent, strides, to);
  Bytes expected = destination;
  for_each_index(source.extent, [&](const Extents& index, std::int64_t) {
    write_bits(expected.data(), offset_of(index, strides), to, transformed_at(source, index, to, transform));
  });
  const Tile tile{
      source.memory.data(), destination.data(), source.extent, source.strides, strides, from, to, transform};
  const ExecutionSpace space;
  CopyTable(space, {&tile, 1}).run(space);
  space.fence();
  ASSERT_EQ(destination, expected) << name(from) << name(to) << to_string(source.extent);
}

void check_fingerprint(Random& random, DType from, DType as, Transform transform) {
  Source source = random_source(random, from);
  const Box box = Box::whole(source.extent);
  // The transformed values as an engine would store them; their plain fingerprint is what both sides must have.
  Bytes stored(static_cast<std::size_t>(box.volume() * byte_size(as)));
  for_each_index(source.extent, [&](const Extents& index, std::int64_t linear) {
    write_bits(stored.data(), linear, as, transformed_at(source, index, as, transform));
  });
  const ExecutionSpace space;
  const Region region{source.memory.data(), from, box, source.extent, source.strides};
  const Region region_of_stored{stored.data(), as, box, source.extent, row_major_strides(source.extent)};
  Sum128 found{5, 6};
  Sum128 expected{5, 6};
  fingerprint(space, region, as, transform, 42, &found);
  fingerprint(space, region_of_stored, as, Transform::none, 42, &expected);
  ASSERT_EQ(found, expected) << name(from) << name(as) << to_string(source.extent);
}

TEST(Transform, CopiesAndFingerprintsOfAllPairs) {
  Random random(3);
  for (DType from : kCastable) {
    for (DType to : kCastable) {
      for (Transform transform : kTransforms) {
        for (int i = 0; i < 30; ++i) {
          check_copy(random, from, to, transform);
          check_fingerprint(random, from, to, transform);
        }
      }
    }
  }
}

TEST(Transform, RefusesATypeThatCannotBeCast) {
  const ExecutionSpace space;
  const Tile tile{nullptr, nullptr, {1}, {1}, {1}, DType::i32, DType::i32, Transform::add_one};
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);
  Sum128 sum;
  const Region region{nullptr, DType::i32, Box::whole({1}), {1}, {1}};
  EXPECT_THROW(fingerprint(space, region, DType::i32, Transform::add_one, 1, &sum), Error);
}

}  // namespace
}  // namespace refit::kernels
