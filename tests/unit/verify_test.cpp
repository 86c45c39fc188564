// Verdicts on right and wrong memory. Layouts, names and ranks are those of verify_world.hpp.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "verify_world.hpp"

namespace refit::verify {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;

constexpr std::int64_t kHidden = 32;

// embed 80 + 32 (a replica), q 64 + 32, k 3 x 16, gate and up 64 + 32 each, experts 2 x (64 + 32) rows of kHidden
// elements, down 32 rows of 3 x 32, the norm and the 5 elements of misc on 3 ranks.
constexpr std::int64_t kElements = (112 + 96 + 48 + 192 + 192) * kHidden + 32 * 96 + 3 * kHidden + 3 * 5;

testing::Matcher<WrongTensor> wrong(const std::string& tensor, std::int32_t rank, std::int64_t elements,
                                    std::int64_t first) {
  return AllOf(Field(&WrongTensor::tensor, tensor), Field(&WrongTensor::gen_rank, Rank{rank}),
               Field(&WrongTensor::elements_wrong, elements), Field(&WrongTensor::first_index, first));
}

TEST(Verify, RightMemoryHasNothingWrongAndAKlOfExactlyZero) {
  World world;
  EXPECT_THAT(world.check_train_holders(), testing::IsEmpty());
  const StepResult result = world.verify();
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.tensors, kTensors);
  EXPECT_EQ(result.tensors_wrong, 0);
  EXPECT_EQ(result.elements, kElements);
  EXPECT_EQ(result.elements_wrong, 0);
  EXPECT_EQ(result.fingerprint_train, result.fingerprint_gen);
  EXPECT_NE(result.fingerprint_train, Sum128{});
  EXPECT_EQ(result.kl.max, 0.0);
  EXPECT_EQ(result.kl.mean, 0.0);
  EXPECT_EQ(result.kl.tensor, "");
}

TEST(Verify, OneFlippedBitIsOneElementOfOneTensorOnOneRank) {
  World world;
  // Row 5 of down on gen rank 0: columns 0..31 of 64.
  const std::uint16_t bits = world.get(Group::gen, 0, "down", 5 * 32 + 7);
  world.set(Group::gen, 0, "down", 5 * 32 + 7, static_cast<std::uint16_t>(bits ^ 1U));
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("down", 0, 1, 5 * 64 + 7)));
  EXPECT_EQ(result.wrong.at(0).found_bits, bits ^ 1U);
  EXPECT_EQ(result.wrong.at(0).expected_bits, bits);
  EXPECT_EQ(result.tensors_wrong, 1);
  EXPECT_EQ(result.elements_wrong, 1);
  EXPECT_NE(result.fingerprint_train, result.fingerprint_gen);
  EXPECT_TRUE(result.train_disagreements.empty());
  EXPECT_EQ(result.kl.tensor, "down");
  EXPECT_GT(result.kl.max, 0.0);
  EXPECT_LT(result.kl.max, 1e-4);
  EXPECT_DOUBLE_EQ(result.kl.mean, result.kl.max / 8.0);  // embed, q, k, gate, up, down, two experts
}

TEST(Verify, AStaleTensorIsWrongOnEveryRankInEveryElement) {
  World world;
  for (std::int32_t rank = 0; rank < World::kTrainRanks; ++rank) {
    for (std::int64_t i = 0; i < 32 * kHidden; ++i) {
      world.set(Group::train, rank, "q", i, static_cast<std::uint16_t>(world.get(Group::train, rank, "q", i) ^ 3U));
    }
  }
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("q", 0, 1024, 0), wrong("q", 1, 1024, 1024), wrong("q", 2, 1024, 1024)));
  EXPECT_EQ(result.elements_wrong, 3 * 1024);
  EXPECT_EQ(result.tensors_wrong, 1);
}

TEST(Verify, SwappedHalvesOfAFusedParameterAreCountedAndHaveALargeKl) {
  World world;
  std::int64_t differing = 0;
  for (std::int32_t rank = 0; rank < World::kGenRanks; ++rank) {
    for (std::int64_t i = 0; i < 32 * kHidden; ++i) {
      const std::uint16_t gate = world.get(Group::gen, rank, "gate_up", i);
      const std::uint16_t up = world.get(Group::gen, rank, "gate_up", 32 * kHidden + i);
      if (gate != up) ++differing;
      world.set(Group::gen, rank, "gate_up", i, up);
      world.set(Group::gen, rank, "gate_up", 32 * kHidden + i, gate);
    }
  }
  const StepResult result = world.verify();
  EXPECT_EQ(result.elements_wrong, 2 * differing);
  EXPECT_EQ(result.tensors_wrong, 2);
  EXPECT_EQ(result.wrong.size(), 6U);
  EXPECT_GT(result.kl.max, 5.0);
  EXPECT_LT(result.kl.max, 50.0);
  EXPECT_GT(result.kl.mean, 2.0 * 5.0 / 8.0);
  EXPECT_LT(result.kl.mean, result.kl.max);
}

TEST(Verify, ATrainReplicaThatDisagreesIsNamed) {
  World world;
  const std::uint16_t bits = world.get(Group::train, 2, "q", 9);
  world.set(Group::train, 2, "q", 9, static_cast<std::uint16_t>(bits ^ 0x40U));
  const Box box{{32, 0}, {32, kHidden}};
  EXPECT_THAT(world.check_train_holders(), ElementsAre(TrainDisagreement{"q", Rank{2}, box}));
  const StepResult result = world.verify();
  EXPECT_THAT(result.train_disagreements, ElementsAre(TrainDisagreement{"q", Rank{2}, box}));
  EXPECT_FALSE(result.ok());
  EXPECT_THAT(result.wrong, testing::IsEmpty());  // of two holders the first counts as true
  EXPECT_EQ(result.kl.max, 0.0);
}

TEST(Verify, TheMajorityOfTrainHoldersIsTheTruthThatGenIsComparedWith) {
  World world;
  const std::uint16_t bits = world.get(Group::train, 0, "experts", 9);
  world.set(Group::train, 0, "experts", 9, static_cast<std::uint16_t>(bits ^ 0x4000U));
  const StepResult result = world.verify();
  EXPECT_THAT(result.train_disagreements,
              ElementsAre(TrainDisagreement{"experts", Rank{0}, Box::whole({2, 64, kHidden})}));
  EXPECT_THAT(result.wrong, testing::IsEmpty());
  EXPECT_EQ(result.kl.max, 0.0);
}

TEST(Verify, AWrongReplicaThatIsNotTheFirstHolderIsSeenByCountsAndKl) {
  World world;
  // k lies below the 32 rows of q, whole on every gen rank; rank 2 is its third holder.
  for (std::int64_t i = 3 * kHidden; i < 5 * kHidden; ++i) world.set(Group::gen, 2, "qk", 32 * kHidden + i, 0x3F80);
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("k", 2, 2 * kHidden, 3 * kHidden)));
  EXPECT_EQ(result.fingerprint_train, result.fingerprint_gen);  // the most agreed holders are right
  EXPECT_EQ(result.kl.tensor, "k");
  EXPECT_GT(result.kl.max, 0.01);
}

TEST(Verify, ACastOnTheWayIsRight) {
  World world({.train_dtype = DType::f32});
  EXPECT_THAT(world.check_train_holders(), testing::IsEmpty());
  StepResult result = world.verify();
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.elements, kElements);
  EXPECT_EQ(result.kl.max, 0.0);

  const std::uint16_t bits = world.get(Group::gen, 1, "experts", 32 * kHidden + 2);
  world.set(Group::gen, 1, "experts", 32 * kHidden + 2, static_cast<std::uint16_t>(bits + 1U));
  result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("experts", 1, 1, (64 + 32) * kHidden + 2)));
  EXPECT_EQ(result.wrong.at(0).expected_bits, bits);
  EXPECT_EQ(result.kl.tensor, "experts");
}

TEST(Verify, TrainReplicasMayDifferOnlyWhereTheCastDoesNotShowIt) {
  World world({.train_dtype = DType::f32});
  std::vector<std::byte>& q = world.storage(Group::train, 2, "q");
  q[0] ^= std::byte{1};  // the lowest bit of a 32-bit element, mostly lost in bf16
  EXPECT_THAT(world.check_train_holders(), testing::SizeIs(1));
  EXPECT_THAT(world.verify().wrong, testing::IsEmpty());
}

TEST(Verify, OverwrittenPaddingIsWrongUnderTheStoragesName) {
  World world;
  world.set(Group::gen, 1, "embed_padded", 40 * kHidden + 3, 0x8000);  // -0.0 is not 0.0
  world.set(Group::gen, 1, "embed_padded", 40 * kHidden + 9, 1);
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("embed_padded", 1, 2, 40 * kHidden + 3)));
  EXPECT_EQ(result.wrong.at(0).found_bits, 0x8000U);
  EXPECT_EQ(result.wrong.at(0).expected_bits, 0U);
  EXPECT_EQ(result.elements_wrong, 2);
  EXPECT_EQ(result.tensors_wrong, 1);
  EXPECT_EQ(result.fingerprint_train, result.fingerprint_gen);
}

TEST(Verify, TwoWrongTensorsAtOnceAreBothFound) {
  World world;
  world.set(Group::gen, 2, "norm", 30, 0x7FC0);
  world.storage(Group::gen, 0, "misc")[8 * 4 + 7] ^= std::byte{0x80};
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("norm", 2, 1, 30), wrong("misc", 0, 1, 4)));
  EXPECT_EQ(result.wrong.at(1).found_bits ^ result.wrong.at(1).expected_bits, 1ULL << 63);
  EXPECT_EQ(result.tensors_wrong, 2);
  EXPECT_EQ(result.kl.max, 0.0);  // neither is a matrix of numbers
}

TEST(Verify, ATensorThatTrainDoesNotStoreIsComparedAmongGenHolders) {
  World world({.misc_in_train = false});
  EXPECT_TRUE(world.verify().ok());
  world.storage(Group::gen, 0, "misc")[8 * 2] ^= std::byte{1};
  EXPECT_THAT(world.verify().wrong, ElementsAre(wrong("misc", 0, 1, 2)));  // ranks 1 and 2 agree
}

TEST(Verify, ATensorThatTrainDoesNotStoreIsComparedWithItsConstant) {
  World world({.misc_in_train = false});
  world.constants = {{kMisc, world.misc_fingerprint()}};
  EXPECT_TRUE(world.verify().ok());
  for (std::int32_t rank = 0; rank < World::kGenRanks; ++rank) {
    world.storage(Group::gen, rank, "misc")[8 * 2] ^= std::byte{1};  // all holders agree, and are wrong
  }
  EXPECT_THAT([&] { world.verify(); }, testing::ThrowsMessage<Error>(testing::HasSubstr("misc: gen does not hold")));
  world.constants.clear();
  EXPECT_TRUE(world.verify().ok());
}

TEST(Verify, CountsAddUpOverAllChunksOfALargeTensor) {
  World world({.misc_elements = 1'500'000});  // 12 MB: two chunks
  for (std::size_t element : {10U, 1'000'000U, 1'400'000U}) {
    world.storage(Group::gen, 1, "misc")[8 * element] ^= std::byte{1};
  }
  EXPECT_THAT(world.verify().wrong, ElementsAre(wrong("misc", 1, 3, 10)));
}

TEST(Verify, AnOverwrittenFillOfTrainIsNamed) {
  World world;
  world.set(Group::train, 1, "norm", kHidden + 3, 0);
  const TrainDisagreement expected{"norm", Rank{1}, Box::whole({8})};
  EXPECT_THAT(world.check_train_holders(), ElementsAre(expected));
  EXPECT_THAT(world.verify().train_disagreements, ElementsAre(expected));
}

TEST(Verify, TiedTensorsShareTheirFingerprintAndTheirElements) {
  World world({.tied = true});
  StepResult result = world.verify();
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.tensors, kTensors + 1);
  EXPECT_EQ(result.elements, kElements);
  const std::uint16_t bits = world.get(Group::gen, 1, "embed_padded", 5);
  world.set(Group::gen, 1, "embed_padded", 5, static_cast<std::uint16_t>(bits ^ 1U));
  result = world.verify();
  EXPECT_THAT(result.wrong,
              ElementsAre(wrong("embed", 1, 1, 48 * kHidden + 5), wrong("lm_head", 1, 1, 48 * kHidden + 5)));
  EXPECT_EQ(result.elements_wrong, 1);
}

// centred 4 x 32 and log 4 on 3 ranks, interleaved and bias half of 2 experts.
constexpr std::int64_t kConvertedElements = kElements + 3 * (4 * kHidden + 4 + 2 * kHidden * 4 * 2 + 2 * 4 * 2);

TEST(Verify, ConvertedAndInterleavedTensorsAreRight) {
  for (const DType train_dtype : {DType::bf16, DType::f32}) {
    World world({.train_dtype = train_dtype, .conversions = true});
    EXPECT_THAT(world.check_train_holders(), testing::IsEmpty());
    const StepResult result = world.verify();
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(result.tensors, kTensors + 4);
    EXPECT_EQ(result.elements, kConvertedElements);
    EXPECT_EQ(result.elements_wrong, 0);
    EXPECT_EQ(result.fingerprint_train, result.fingerprint_gen);
    EXPECT_EQ(result.kl.max, 0.0);
  }
}

TEST(Verify, AWrongElementOfACenteredTensorIsNamedWithTheValueThatItShouldBe) {
  World world({.conversions = true});
  const std::int64_t element = 2 * kHidden + 5;
  const std::uint16_t kept = world.get(Group::train, 0, "centred", element);
  const std::uint16_t right = world.get(Group::gen, 1, "centred", element);
  EXPECT_NE(kept, right);
  EXPECT_EQ(right, kernels::convert_bits(kept, DType::bf16, DType::bf16, Transform::add_one));
  world.set(Group::gen, 1, "centred", element, kept);  // as if nothing had been added
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("centred", 1, 1, element)));
  EXPECT_EQ(result.wrong.at(0).found_bits, kept);
  EXPECT_EQ(result.wrong.at(0).expected_bits, right);
  EXPECT_EQ(result.kl.tensor, "centred");
  EXPECT_TRUE(std::isfinite(result.kl.max));
  EXPECT_GT(result.kl.max, 0.0);
}

TEST(Verify, AWrongElementOfAnExponentialIsNamedInFloat32) {
  World world({.conversions = true});
  const std::uint32_t right =
      kernels::convert_bits(world.get(Group::train, 1, "log", 2), DType::bf16, DType::f32, Transform::negative_exp);
  world.storage(Group::gen, 2, "A")[4 * 2] ^= std::byte{1};  // the lowest bit of element 2 of the second half
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong, ElementsAre(wrong("log", 2, 1, 4 + 2)));
  EXPECT_EQ(result.wrong.at(0).expected_bits, right);
  EXPECT_EQ(result.wrong.at(0).found_bits, right ^ 1U);
  EXPECT_EQ(result.kl.max, 0.0);  // no matrix
}

TEST(Verify, AWrongElementOfInterleavedTensorsIsNamedByItsPlaceInTheTensor) {
  World world({.conversions = true});
  // Gen rank 1 has i 4..7: expert 1, h 3, i 5, up; and of the bias expert 0, i 6, gate.
  const std::int64_t weight = 8 * kHidden + (2 * (5 - 4) + 1) * kHidden + 3;
  const std::int64_t bias = 2 * (6 - 4);
  const std::uint16_t bits = world.get(Group::gen, 1, "w13", weight);
  world.set(Group::gen, 1, "w13", weight, 0x4000);
  world.set(Group::gen, 1, "w13_bias", bias, 0x4000);
  const StepResult result = world.verify();
  EXPECT_THAT(result.wrong,
              ElementsAre(wrong("interleaved", 1, 1, ((kHidden + 3) * 8 + 5) * 2 + 1), wrong("bias", 1, 1, 6 * 2)));
  EXPECT_EQ(result.wrong.at(0).expected_bits, bits);
  EXPECT_EQ(result.wrong.at(0).found_bits, 0x4000U);
  EXPECT_EQ(result.elements_wrong, 2);
  EXPECT_TRUE(std::isfinite(result.kl.max));
  EXPECT_GT(result.kl.max, 0.0);
}

/// Gate and up are exchanged: all elements differ, and the KL is large.
TEST(Verify, SwappedHalvesOfInterleavedTensorsAreCounted) {
  World world({.conversions = true});
  std::int64_t differing = 0;
  for (std::int32_t rank = 0; rank < World::kGenRanks; ++rank) {
    for (std::int64_t row = 0; row < 16; row += 2) {
      for (std::int64_t h = 0; h < kHidden; ++h) {
        const std::uint16_t gate = world.get(Group::gen, rank, "w13", row * kHidden + h);
        const std::uint16_t up = world.get(Group::gen, rank, "w13", (row + 1) * kHidden + h);
        world.set(Group::gen, rank, "w13", row * kHidden + h, up);
        world.set(Group::gen, rank, "w13", (row + 1) * kHidden + h, gate);
        differing += gate != up ? 2 : 0;
      }
    }
  }
  const StepResult result = world.verify();
  EXPECT_EQ(result.elements_wrong, differing);
  EXPECT_EQ(result.tensors_wrong, 1);
  EXPECT_EQ(result.kl.tensor, "interleaved");
  EXPECT_GT(result.kl.max, 1.0);
  EXPECT_LT(result.kl.max, 50.0);
}

TEST(Verify, AConversionThatCannotBeTakenBackIsRefusedByName) {
  World world({.conversions = true, .backwards = true});
  EXPECT_THAT([&] { world.verify(); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("log: stored as BF16 (-exp(x)) by train rank")));
}

TEST(Verify, WhatCannotBeComparedIsRefusedByName) {
  World overlapping;
  overlapping.gen.table[0].pieces[kNorm][0].box.extent[0] -= 1;  // now it is not the box of the other ranks
  EXPECT_THAT([&] { overlapping.verify(); }, testing::ThrowsMessage<Error>(testing::HasSubstr("norm: ")));
  World mixed;
  mixed.gen.table[0].pieces[kNorm][0].format = DType::f64;  // not a cast of bf16, and not what the other ranks store
  EXPECT_THAT([&] { mixed.verify(); }, testing::ThrowsMessage<Error>(testing::HasSubstr("norm: stored as BF16")));
}

}  // namespace
}  // namespace refit::verify
