// The parts of the verifier that need no memory of weights: cutting, judging, KL.

#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <vector>

#include "core/error.hpp"
#include "core/hash.hpp"
#include "verify/chunks.hpp"
#include "verify/halves.hpp"
#include "verify/judge.hpp"
#include "verify/kl.hpp"

namespace refit::verify {
namespace {

using testing::ElementsAre;

TEST(Chunks, WholeRowsWhereARowFits) {
  EXPECT_THAT(chunks({{1, 0}, {4, 3}}, 6), ElementsAre(Box{{1, 0}, {2, 3}}, Box{{3, 0}, {2, 3}}));
  EXPECT_THAT(chunks({{0, 0}, {3, 3}}, 8), ElementsAre(Box{{0, 0}, {2, 3}}, Box{{2, 0}, {1, 3}}));
}

TEST(Chunks, LongRowsAreCutAndEmptyBoxesVanish) {
  EXPECT_THAT(chunks({{7}, {5}}, 2), ElementsAre(Box{{7}, {2}}, Box{{9}, {2}}, Box{{11}, {1}}));
  EXPECT_THAT(chunks({{0, 0}, {0, 3}}, 2), testing::IsEmpty());
}

TEST(Chunks, CoverABoxOfThreeDimensionsOnceWithinTheLimit) {
  const Box box{{1, 2, 3}, {3, 5, 7}};
  for (std::int64_t limit : {1, 4, 7, 20, 35, 36, 105}) {
    std::int64_t volume = 0;
    const std::vector<Box> parts = chunks(box, limit);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      EXPECT_LE(parts[i].volume(), limit);
      EXPECT_EQ(intersect(parts[i], box), parts[i]);
      volume += parts[i].volume();
      for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(intersect(parts[i], parts[j])) << limit;
    }
    EXPECT_EQ(volume, box.volume()) << limit;
  }
}

/// [E 2, H 3, I 4, 2] where gate and up alternate by rows of 3: the halves are 3-D, their numbers are those of gate and
/// up, whichever the box has.
TEST(Halves, AreTheInterleavedTensorWithoutItsLastDimension) {
  std::array<std::byte, 2 * 2 * 4 * 2 * 3> memory{};
  kernels::Region region{memory.data(), DType::bf16, {{0, 0, 1, 0}, {2, 3, 2, 2}}, {2, 3, 4, 2}, {24, 1, 6, 3}};
  const auto both = halves(region);
  ASSERT_EQ(both.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(both[i].number, i);
    EXPECT_EQ(both[i].region.data, memory.data() + 2 * 3 * static_cast<std::ptrdiff_t>(i));
    EXPECT_EQ(both[i].region.box, (Box{{0, 0, 1}, {2, 3, 2}}));
    EXPECT_EQ(both[i].region.shape, (Shape{2, 3, 4}));
    EXPECT_EQ(both[i].region.strides, (Extents{24, 1, 6}));
  }
  region.box.lower[3] = 1;
  region.box.extent[3] = 1;
  const auto up = halves(region);
  ASSERT_EQ(up.size(), 1u);
  EXPECT_EQ(up[0].number, 1u);
  EXPECT_EQ(up[0].region.data, memory.data());
}

TEST(Halves, OfOtherTensorsAreTheTensor) {
  std::array<std::byte, 64> memory{};
  for (const Shape& shape : {Shape{8}, Shape{4, 2}, Shape{2, 4, 3}}) {
    const kernels::Region region{memory.data(), DType::bf16, Box::whole(shape), shape, row_major_strides(shape)};
    const auto all = halves(region);
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].number, 0u);
    EXPECT_EQ(all[0].region.box, region.box);
  }
}

TEST(Judge, TheMostAgreedHolderIsTheFirstOfTheLargestParty) {
  const std::vector<Holder> holders{{0, 0}, {1, 0}, {2, 0}};
  const auto rank = [&](std::uint64_t a, std::uint64_t b, std::uint64_t c) {
    return most_agreed(holders, {{Sum128{a, 0}}, {Sum128{b, 0}}, {Sum128{c, 0}}}).world_rank;
  };
  EXPECT_EQ(rank(1, 1, 1), 0);
  EXPECT_EQ(rank(1, 2, 2), 1);
  EXPECT_EQ(rank(1, 2, 1), 0);
  EXPECT_EQ(rank(1, 2, 3), 0);
}

/// Deviates that look normal: sums of twelve uniform numbers.
std::vector<std::int64_t> normal(std::uint64_t seed, std::int64_t count, double scale) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < count; ++i) {
    double sum = -6.0;
    for (std::uint64_t k = 0; k < 12; ++k) {
      sum += static_cast<double>(splitmix64(combine(seed, static_cast<std::uint64_t>(12 * i) + k)) >> 11) * 0x1p-53;
    }
    values.push_back(std::llround(sum * scale * 0x1p24));
  }
  return values;
}

TEST(Kl, OfIndependentVectorsIsAboveTenWhateverTheirScale) {
  for (double scale : {0.001, 1.0, 1000.0}) {
    const double kl = kl_of_row_sums(normal(1, 100000, scale), normal(2, 100000, scale));
    EXPECT_GT(kl, 10.0) << scale;
    EXPECT_LT(kl, 25.0) << scale;
  }
}

TEST(Kl, IsZeroForEqualSumsAndTheKnownValueForTwoRows) {
  const std::vector<std::int64_t> a{1 << 24, -(1 << 24)};  // logits s, -s
  const std::vector<std::int64_t> b{-(1 << 24), 1 << 24};
  EXPECT_EQ(kl_of_row_sums(a, a), 0.0);
  EXPECT_NEAR(kl_of_row_sums(a, b), 2.0 * kLogitScale * std::tanh(kLogitScale), 1e-12);
}

TEST(Kl, TrainOfZerosCountsAsRmsOne) {
  const std::vector<std::int64_t> zero{0, 0};
  const std::vector<std::int64_t> gen{1 << 24, -(1 << 24)};
  EXPECT_EQ(kl_of_row_sums(zero, zero), 0.0);
  EXPECT_NEAR(kl_of_row_sums(zero, gen), std::log(std::cosh(kLogitScale)), 1e-12);
}

TEST(Kl, SaturatedSumsStayFinite) {
  const std::vector<std::int64_t> train{1, -1, 2};
  const std::vector<std::int64_t> gen{std::int64_t{1} << 60, -(std::int64_t{1} << 60), 0};
  EXPECT_TRUE(std::isfinite(kl_of_row_sums(train, gen)));
  EXPECT_GT(kl_of_row_sums(train, gen), 1.0);
}

}  // namespace
}  // namespace refit::verify
