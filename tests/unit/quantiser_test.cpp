// The quantisers' inline functions against the reference on random blocks, and ceil_log2 against std::log2.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>

#include "unit/quantiser_blocks.hpp"

namespace refit {
namespace {

using namespace quantiser_test;

TEST(QuantiserNames, EveryLibraryOfBlocksHasItsOwn) {
  std::set<Quantiser> used;
  for (const StoredFormat format : {StoredFormat::fp8_block, StoredFormat::mxfp8}) {
    for (const Library library : libraries(format)) {
      const auto quantiser = quantiser_of(format, library);
      ASSERT_TRUE(quantiser) << name(library);
      EXPECT_EQ(is_mx(*quantiser), format == StoredFormat::mxfp8) << name(library);
      if (format == StoredFormat::fp8_block) {
        EXPECT_EQ(name(*quantiser), name(library));
      }
      used.insert(*quantiser);
    }
  }
  EXPECT_EQ(used.size(), std::size(kAll));
  EXPECT_EQ(quantiser_of(StoredFormat::fp8_block, Library::torchao), std::nullopt);
  EXPECT_EQ(quantiser_of(StoredFormat::mxfp8, Library::te), std::nullopt);
  EXPECT_EQ(quantiser_of(StoredFormat::nvfp4, Library::vllm), std::nullopt);
}

void check_log2(std::uint32_t bits) {
  const float value = std::bit_cast<float>(bits);
  const auto rounded = static_cast<float>(std::log2(static_cast<double>(value)));
  ASSERT_EQ(kernels::ceil_log2(value), static_cast<int>(std::ceil(rounded))) << std::hexfloat << value;
}

TEST(CeilLog2, EveryMantissaOfSomeExponents) {
  for (std::uint32_t biased : {0U, 1U, 40U, 63U, 90U, 111U, 118U, 126U, 127U, 128U, 131U, 135U, 160U, 254U}) {
    for (std::uint32_t mantissa = biased == 0 ? 1 : 0; mantissa < 0x00800000U; ++mantissa) {
      check_log2(biased << 23 | mantissa);
    }
  }
}

TEST(CeilLog2, BesideEveryPowerOfTwo) {
  for (std::uint32_t biased = 1; biased < 255U; ++biased) {
    for (std::uint32_t offset = 0; offset < 200U; ++offset) check_log2((biased << 23) - 100U + offset);
  }
}

TEST(CeilLog2, HowManyUnitsAboveAPowerOfTwoCountAsIt) {
  const auto counted = [](int exponent) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(kernels::float_power_of_two(exponent));
    int units = 0;
    while (kernels::ceil_log2(std::bit_cast<float>(++bits)) == exponent) ++units;
    return units;
  };
  EXPECT_EQ(counted(0), 0);
  EXPECT_EQ(counted(4), 1);
  EXPECT_EQ(counted(8), 2);
  EXPECT_EQ(counted(-8), 1);
  EXPECT_EQ(counted(-9), 2);
  EXPECT_EQ(counted(-16), 2);
  EXPECT_EQ(counted(-17), 5);
  EXPECT_EQ(counted(64), 22);
  EXPECT_EQ(counted(-64), 11);
  EXPECT_EQ(counted(-126), 22);
}

/// One block or a few whose values share a magnitude, some of them with special values in between.
Matrix random_matrix(Random& random, Quantiser quantiser, DType dtype) {
  const auto pick = [&random](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const bool whole = pick(0, 31) == 0;
  Matrix matrix;
  matrix.dtype = dtype;
  matrix.rows = whole && !is_mx(quantiser) ? 128 : pick(1, 4);
  matrix.columns = is_mx(quantiser) ? 32 * pick(1, 4) : whole ? 128 : pick(1, 260);
  matrix.row_stride = matrix.columns + pick(0, 3);
  const std::int64_t count = matrix.rows * matrix.row_stride;
  matrix.values.resize(static_cast<std::size_t>(count * byte_size(dtype)));
  const int exponent = pick(0, 1) == 0 ? pick(-150, 127) : pick(-20, 10);
  const int usual = pick(kFirstUsual - 1, kKinds - 1);
  const bool with_specials = pick(0, 2) == 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool special = with_specials && pick(0, 99) == 0;
    const int kind = special ? pick(0, kFirstUsual - 1) : usual;
    const std::uint32_t bits = random_value(random, kind, exponent - pick(0, 12));
    kernels::with_types(DType::f32, dtype, [&](auto, auto to) {
      kernels::store(matrix.values.data(), i, kernels::convert<kernels::F32, decltype(to)>(bits));
    });
  }
  return matrix;
}

TEST(InlineFunctions, EqualTheReferenceOnRandomBlocks) {
  Random random(11);
  for (Quantiser quantiser : kAll) {
    std::size_t blocks = 0;
    while (blocks < 12500U) {
      const DType dtype = std::array{DType::f32, DType::bf16, DType::f16}[random() % 3];
      const Matrix matrix = random_matrix(random, quantiser, dtype);
      const Quantised expected = by_reference(quantiser, matrix);
      expect_same(by_steps(quantiser, matrix), expected, fmt::format("{} {}", name(quantiser), name(dtype)));
      if (HasFatalFailure()) return;
      blocks += expected.scales.size() / static_cast<std::size_t>(byte_size(scale_dtype(quantiser)));
    }
  }
}

}  // namespace
}  // namespace refit
