// Merged weights against exact arithmetic, in every pair of types.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "kernels/memory.hpp"
#include "kernels/merge.hpp"

namespace refit::kernels {
namespace {

double value_of(const std::byte* data, std::int64_t index, DType dtype) {
  std::uint32_t bits = 0;
  std::copy_n(data + index * byte_size(dtype), byte_size(dtype), reinterpret_cast<std::byte*>(&bits));
  return static_cast<double>(std::bit_cast<float>(convert_bits(bits, dtype, DType::f32)));
}

SharedBuffer random_values(std::mt19937_64& random, std::int64_t count, DType dtype, double scale) {
  SharedBuffer buffer(count * byte_size(dtype));
  std::normal_distribution<double> values(0, scale);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits =
        convert_bits(std::bit_cast<std::uint32_t>(static_cast<float>(values(random))), DType::f32, dtype);
    std::copy_n(reinterpret_cast<const std::byte*>(&bits), byte_size(dtype), buffer.data() + i * byte_size(dtype));
  }
  return buffer;
}

/// Returns whether `found` is the value of `type` that is nearest to `exact`: none of its neighbours is nearer.
bool is_nearest(long double exact, double found, DType type) {
  const std::uint32_t bits = convert_bits(std::bit_cast<std::uint32_t>(static_cast<float>(found)), DType::f32, type);
  const long double error = std::abs(exact - static_cast<long double>(found));
  for (const std::uint32_t other : {bits - 1, bits + 1}) {
    const double near = static_cast<double>(std::bit_cast<float>(convert_bits(other, type, DType::f32)));
    if (std::abs(exact - static_cast<long double>(near)) < error) return false;
  }
  return true;
}

struct Sizes {
  std::int64_t rows, columns, rank;
  std::int64_t weight_columns;  // of the storage that the weight is a part of
};

class Merged : public ::testing::TestWithParam<Sizes> {};

TEST_P(Merged, IsTheNearestValueAndTheSameByEitherKernel) {
  const Sizes& sizes = GetParam();
  std::mt19937_64 random(7);
  const ExecutionSpace space;
  for (const DType weight_type : {DType::bf16, DType::f16, DType::f32}) {
    for (const DType factor_type : {DType::bf16, DType::f32}) {
      for (const DType out_type : {DType::bf16, DType::f16, DType::f32}) {
        const SharedBuffer weight = random_values(random, sizes.rows * sizes.weight_columns, weight_type, 0.02);
        const SharedBuffer a = random_values(random, sizes.rank * sizes.columns, factor_type, 0.02);
        const SharedBuffer b = random_values(random, sizes.rows * sizes.rank, factor_type, 0.02);
        const std::int64_t count = sizes.rows * sizes.columns;
        const SharedBuffer out(count * byte_size(out_type)), plain(count * byte_size(out_type));
        Merge of;
        of.weight = weight.data();
        of.weight_type = weight_type;
        of.weight_strides = {sizes.weight_columns, 1};
        of.a = a.data();
        of.b = b.data();
        of.factor_type = factor_type;
        of.a_stride = sizes.columns;
        of.b_stride = of.rank = sizes.rank;
        of.out = out.data();
        of.out_type = out_type;
        of.rows = sizes.rows;
        of.columns = sizes.columns;
        of.scaling = 11.0 / 7.0;
        merge(space, of);
        Merge again = of;
        again.out = plain.data();
        merge_plainly(space, again);
        space.fence();
        ASSERT_TRUE(std::equal(out.span().begin(), out.span().end(), plain.span().begin()));
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t row = i / sizes.columns, column = i % sizes.columns;
          long double sum = 0;
          for (std::int64_t k = 0; k < sizes.rank; ++k) {
            sum += static_cast<long double>(value_of(b.data(), row * sizes.rank + k, factor_type)) *
                   static_cast<long double>(value_of(a.data(), k * sizes.columns + column, factor_type));
          }
          const long double exact =
              static_cast<long double>(of.scaling) * sum +
              static_cast<long double>(value_of(weight.data(), row * sizes.weight_columns + column, weight_type));
          // Rounded from a double: beside a tie of the destination's type that may be either neighbour.
          ASSERT_TRUE(is_nearest(static_cast<double>(exact), value_of(out.data(), i, out_type), out_type))
              << name(weight_type) << " " << name(factor_type) << " " << name(out_type) << " element " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Merged,
                         ::testing::Values(Sizes{1, 1, 1, 1}, Sizes{3, 5, 2, 9}, Sizes{33, 520, 16, 520},
                                           Sizes{40, 17, 64, 20}));

TEST(Merged, HasTheBitsOfAFusedMultiplyAdd) {
  // 1 + 2^-8 lies half-way between two values of bfloat16; what is added to it decides.
  const ExecutionSpace space;
  const auto merged = [&](float weight, float a, float b, double scaling) {
    const SharedBuffer buffer(16);
    auto* values = reinterpret_cast<float*>(buffer.data());
    values[0] = weight;
    values[1] = a;
    values[2] = b;
    Merge of;
    of.weight = buffer.data();
    of.weight_type = of.factor_type = of.out_type = DType::f32;
    of.out_type = DType::bf16;
    of.weight_strides = {1, 1};
    of.a = buffer.data() + 4;
    of.b = buffer.data() + 8;
    of.a_stride = of.b_stride = of.rank = of.rows = of.columns = 1;
    of.scaling = scaling;
    of.out = buffer.data() + 12;
    merge(space, of);
    space.fence();
    return value_of(buffer.data() + 12, 0, DType::bf16);
  };
  EXPECT_EQ(merged(1.0F, 0x1p-8F, 1.0F, 1.0), 1.0);                      // a tie, to even
  EXPECT_EQ(merged(1.0F + 0x1p-8F, 0x1p-40F, 1.0F, 1.0), 1.0 + 0x1p-7);  // beyond it, by less than a float's last bit
  EXPECT_EQ(merged(1.0F + 0x1p-8F, 0x1p-40F, 1.0F, -1.0), 1.0);
}

TEST(Scaled, IsAProductInFloat) {
  const ExecutionSpace space;
  std::mt19937_64 random(3);
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    constexpr std::int64_t kCount = 1001;
    const SharedBuffer source = random_values(random, kCount, dtype, 1.0);
    const SharedBuffer out(kCount * byte_size(dtype));
    scale(space, source.data(), out.data(), dtype, kCount, 1.375F);
    space.fence();
    for (std::int64_t i = 0; i < kCount; ++i) {
      const float product = static_cast<float>(value_of(source.data(), i, dtype)) * 1.375F;
      const std::uint32_t bits = convert_bits(std::bit_cast<std::uint32_t>(product), DType::f32, dtype);
      std::uint32_t found = 0;
      std::copy_n(out.data() + i * byte_size(dtype), byte_size(dtype), reinterpret_cast<std::byte*>(&found));
      ASSERT_EQ(found, bits) << name(dtype) << " element " << i;
    }
  }
}

}  // namespace
}  // namespace refit::kernels
