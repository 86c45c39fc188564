// Verdicts on bytes with block scales. Layouts, names and ranks are those of verify_quantised_world.hpp.

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>

#include "core/error.hpp"
#include "kernels/memory.hpp"
#include "kernels/quantise_reference.hpp"
#include "verify/kl.hpp"
#include "verify_quantised_world.hpp"

namespace refit::verify {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

// Both gen ranks together; each has 3 x 4 of gate's scales, and experts and the KV scale are on both.
constexpr std::int64_t kQuantisedElements =
    256 * 384 + 2 * 3 + 200 * 256 + 2 * 2 + 384 * 256 + 2 * 12 + 2 * (2 * 64 * 64 + 2 * 64 * 2) + 2;
constexpr double kMatrices = 5.0;  // q, down, gate and two experts

testing::Matcher<WrongTensor> wrong(const std::string& tensor, std::int32_t rank, std::int64_t elements,
                                    std::int64_t first) {
  return AllOf(Field(&WrongTensor::tensor, tensor), Field(&WrongTensor::gen_rank, Rank{rank}),
               Field(&WrongTensor::elements_wrong, elements), Field(&WrongTensor::first_index, first));
}

TEST(VerifyQuantised, RightBytesAndScalesHaveNothingWrongAndAKlOfExactlyZero) {
  QuantisedWorld world;
  EXPECT_THAT(world.check_train_holders(), IsEmpty());
  const StepResult result = world.verify();
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.tensors, 9);
  EXPECT_EQ(result.elements, kQuantisedElements);
  EXPECT_EQ(result.elements_wrong, 0);
  EXPECT_EQ(result.fingerprint_train, result.fingerprint_gen);
  EXPECT_NE(result.fingerprint_train, Sum128{});
  EXPECT_EQ(result.kl.max, 0.0);
  EXPECT_EQ(result.kl.tensor, "");
}

TEST(VerifyQuantised, AWrongByteIsNamedAndCountsTimesItsScale) {
  QuantisedWorld world;
  auto& byte = world.at<std::uint8_t>(Group::gen, 1, "down", 3 * 128 + 5);
  const std::uint8_t right = byte;
  byte ^= 0x80U;
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("down", 1, 1, 3 * 256 + 128 + 5)));
  EXPECT_EQ(result.wrong.at(0).found_bits, right ^ 0x80U);
  EXPECT_EQ(result.wrong.at(0).expected_bits, right);
  EXPECT_EQ(result.kl.tensor, "down");
  EXPECT_GT(result.kl.max, 0.0);
  EXPECT_LT(result.kl.max, 1.0);
  EXPECT_DOUBLE_EQ(result.kl.mean, result.kl.max / kMatrices);
}

/// Weights and scales arrive one after the other: gen has the bytes of this step with the scales of the step before.
TEST(VerifyQuantised, NewBytesWithStaleScalesAreWrongUnderTheScalesName) {
  QuantisedWorld world;
  for (std::int32_t rank = 0; rank < QuantisedWorld::kTrainRanks; ++rank) {
    for (const int i : {1, 2, 4, 5, 6})
      world.at<float>(Group::train, rank, "q_scale", i) *= 1.0F + 0.25F * static_cast<float>(i);
  }
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("q_scale", 0, 2, 1), wrong("q_scale", 1, 3, 3)));
  EXPECT_EQ(result.kl.tensor, "q");
  EXPECT_GT(result.kl.max, 0.1);
}

TEST(VerifyQuantised, StaleBytesWithNewScalesAreWrongUnderTheWeightsName) {
  QuantisedWorld world;
  for (std::int32_t rank = 0; rank < QuantisedWorld::kTrainRanks; ++rank) {
    for (std::int64_t i = 0; i < 384 * 256; ++i) world.at<std::uint8_t>(Group::train, rank, "gate", i) ^= 0x80U;
  }
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("gate", 0, 192 * 256, 0), wrong("gate", 1, 192 * 256, 192 * 256)));
  EXPECT_EQ(result.kl.tensor, "gate");
  EXPECT_GT(result.kl.max, 1.0);
}

TEST(VerifyQuantised, AWrongRepeatedScaleIsNamedByItsPlaceInTheFile) {
  QuantisedWorld world;
  auto& scale = world.at<float>(Group::gen, 1, "gate_scale", 2 * 4 + 3);  // of scale [2, 1], its rows' second half
  const float right = scale;
  scale = 7.0F;
  StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("gate_scale", 1, 1, 2 * 2 + 1)));
  EXPECT_EQ(result.wrong.at(0).found_bits, std::bit_cast<std::uint32_t>(7.0F));
  EXPECT_EQ(result.wrong.at(0).expected_bits, std::bit_cast<std::uint32_t>(right));
  EXPECT_EQ(result.kl.tensor, "gate");

  // This is scale [2, 0], in a row that is stored after the first scale's row.
  world.at<float>(Group::gen, 1, "gate_scale", 1 * 4 + 2) = 7.0F;
  world.at<float>(Group::gen, 1, "gate_scale", 2 * 4 + 3) = right;
  world.at<float>(Group::gen, 1, "gate_scale", 2 * 4 + 0) = 7.0F;
  result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("gate_scale", 1, 2, 2 * 2)));
}

TEST(VerifyQuantised, AWrongScaleOfAReplicaThatIsNotTheFirstHolderIsSeenByTheKl) {
  QuantisedWorld world;
  auto& scale = world.at<std::uint8_t>(Group::gen, 1, "experts_scale", 64 * 2 + 9);
  ++scale;
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("experts_scale", 1, 1, 64 * 2 + 9)));
  EXPECT_EQ(result.kl.tensor, "experts");
  EXPECT_GT(result.kl.max, 0.0);
  EXPECT_DOUBLE_EQ(result.kl.mean, result.kl.max / kMatrices);
}

TEST(VerifyQuantised, ATrainReplicaWithOtherScalesIsNamedAndDoesNotCount) {
  QuantisedWorld world;
  world.at<float>(Group::train, 0, "down_scale", 1) *= 2.0F;
  const TrainDisagreement odd{"down_scale", Rank{0}, Box::whole({2, 2})};
  EXPECT_THAT(world.check_train_holders(), ElementsAre(odd));
  const StepResult result = world.verify();
  EXPECT_THAT(result.train_disagreements, ElementsAre(odd));
  EXPECT_THAT(result.wrong, IsEmpty());
  EXPECT_EQ(result.kl.max, 0.0);
}

TEST(VerifyQuantised, OverwrittenPaddingOfTrainsScalesIsNamed) {
  QuantisedWorld world;
  world.at<float>(Group::train, 2, "q_scale", 4 + 3) = 1.0F;
  EXPECT_THAT(world.check_train_holders(), ElementsAre(TrainDisagreement{"q_scale", Rank{2}, Box::whole({2, 1})}));
}

TEST(VerifyQuantised, AScalarIsComparedAsItIsCast) {
  QuantisedWorld world;
  world.at<std::uint16_t>(Group::gen, 1, "k_scale", 0) ^= 1U;
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("k_scale", 1, 1, 0)));
  EXPECT_EQ(result.kl.max, 0.0);
}

TEST(VerifyQuantised, AWeightWithoutAllItsScalesIsRefusedByName) {
  QuantisedWorld world({.swapped_scales = true});
  EXPECT_THAT([&] { world.verify(); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("stores 0 of the 3 scales of its part")));
}

TEST(VerifyQuantised, WhatIsQuantisedOnTheWayHasASmallKlAgainstTheOriginals) {
  QuantisedWorld world({.originals = true});
  EXPECT_THAT(world.check_train_holders(), IsEmpty());
  StepResult result = world.verify();
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.elements_wrong, 0);
  EXPECT_GT(result.kl.mean, 5e-4);
  EXPECT_LT(result.kl.max, 0.06);

  // The bits are compared with the quantised weights, the values with the originals.
  for (std::int32_t rank = 0; rank < QuantisedWorld::kTrainRanks; ++rank) {
    std::vector<std::byte>& q = world.original(rank, "q");
    std::rotate(q.begin(), q.begin() + 2 * 384, q.end());
  }
  result = world.verify();
  EXPECT_THAT(result.wrong, IsEmpty());
  EXPECT_EQ(result.kl.tensor, "q");
  EXPECT_GT(result.kl.max, 1.0);
}

TEST(VerifyQuantised, TrainHoldersAreComparedByTheirOriginals) {
  QuantisedWorld world({.originals = true});
  world.original(1, "gate")[7] ^= std::byte{1};
  world.at<std::uint8_t>(Group::train, 2, "q", 5) ^= 1U;  // nothing that train stores
  EXPECT_THAT(world.check_train_holders(), ElementsAre(TrainDisagreement{"gate", Rank{1}, Box::whole({384, 256})}));
}

/// Mean KL of weights that look like a model's and the values of their bytes and scales.
double mean_kl(Quantiser quantiser, std::int64_t rows, std::uint64_t matrices) {
  constexpr std::int64_t kColumns = 128;
  const Shape shape{rows, kColumns};
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer weights(2 * rows * kColumns);
  const kernels::SharedBuffer bytes(rows * kColumns);
  const kernels::SharedBuffer scales(4 * rows * kColumns / 32);
  const kernels::Region plain{weights.data(), DType::bf16, Box::whole(shape), shape, row_major_strides(shape)};
  const kernels::Region region{bytes.data(), DType::f8_e4m3, Box::whole(shape), shape, row_major_strides(shape)};
  const kernels::BlockScales with{
      scales.data(), scale_dtype(quantiser), {kColumns / block_size(quantiser).columns, 1}, block_size(quantiser)};
  double sum = 0.0;
  for (std::uint64_t m = 0; m < matrices; ++m) {
    kernels::synthesise(space, plain, m, 0.0, 0.02);
    space.fence();
    kernels::quantise_reference(quantiser, weights.data(), DType::bf16, rows, kColumns, kColumns,
                                reinterpret_cast<std::uint8_t*>(bytes.data()), scales.data());
    std::vector<std::int64_t> train(static_cast<std::size_t>(rows), 0);
    std::vector<std::int64_t> gen = train;
    kernels::signed_row_sums(space, plain, m, train.data());
    kernels::signed_row_sums(space, region, with, m, gen.data());
    sum += kl_of_row_sums(train, gen);
  }
  return sum / static_cast<double>(matrices);
}

TEST(VerifyQuantised, TheMeanKlOfQuantisedWeightsIsThatOfPublishedRuns) {
  for (const auto& [rows, matrices] : {std::pair{128, 600}, {768, 100}, {4096, 20}}) {
    const double fp8 = mean_kl(Quantiser::nemo_rl, rows, static_cast<std::uint64_t>(matrices));
    EXPECT_GT(fp8, 0.003) << rows;
    EXPECT_LT(fp8, 0.011) << rows;
    const double mxfp8 = mean_kl(Quantiser::mxfp8, rows, static_cast<std::uint64_t>(matrices));
    EXPECT_GT(mxfp8, 0.004) << rows;
    EXPECT_LT(mxfp8, 0.008) << rows;
  }
}

}  // namespace
}  // namespace refit::verify
