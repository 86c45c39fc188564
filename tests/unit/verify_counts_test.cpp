// Wrong tensors are named before their elements are counted, in any number of chunks; NaN and infinities are reported.
// Layouts, names and ranks are those of verify_world.hpp.

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "verify/owners.hpp"
#include "verify_world.hpp"

namespace refit::verify {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::int64_t kHidden = 32;

std::vector<std::pair<std::string, int>> names(const StepResult& result) {
  std::vector<std::pair<std::string, int>> list;
  for (const WrongTensor& wrong : result.wrong) list.emplace_back(wrong.tensor, to_int(wrong.gen_rank));
  return list;
}

void flip(World& world, std::int32_t rank, const std::string& storage, std::int64_t element) {
  world.set(Group::gen, rank, storage, element,
            static_cast<std::uint16_t>(world.get(Group::gen, rank, storage, element) ^ 1U));
}

TEST(VerifyCounts, TensorsAndRanksAreNamedWithoutAnyTimeToCount) {
  World world;
  world.tuning.count_seconds = 0;
  // The sides cut the embedding differently: rows 0..39 and 40..79 of train, 0..47 and 48..79 of gen, whose rank 2 is a
  // replica of 1. Rows 45 and 60 both come from train ranks 1 and 2.
  flip(world, 0, "embed_padded", 45 * kHidden + 3);
  flip(world, 2, "embed_padded", (60 - 48) * kHidden + 1);
  flip(world, 1, "qk", (32 + 2) * kHidden);  // k, of three replicas
  const StepResult result = world.verify();
  const std::vector<std::pair<std::string, int>> expected{{"embed", 0}, {"embed", 2}, {"k", 1}};
  EXPECT_EQ(names(result), expected);
  for (const WrongTensor& wrong : result.wrong) {
    EXPECT_FALSE(wrong.counted);
    EXPECT_EQ(wrong.elements_wrong, 1);  // at least
    EXPECT_EQ(wrong.first_index, -1);
  }
  EXPECT_EQ(result.tensors_wrong, 2);
  EXPECT_EQ(result.tensors_not_counted, 2);
  EXPECT_EQ(result.elements_wrong, 3);
  EXPECT_FALSE(result.ok());
  ASSERT_EQ(world.named.size(), 1U);
  EXPECT_EQ(names(world.named[0]), expected);
}

TEST(VerifyCounts, WhatIsNamedFirstIsWhatIsCountedThen) {
  World world({.conversions = true});
  flip(world, 1, "down", 7);
  flip(world, 0, "w13", 5);
  world.set(Group::gen, 1, "embed_padded", 40 * kHidden + 3, 0x8000);  // a fill
  const StepResult result = world.verify();
  ASSERT_EQ(world.named.size(), 1U);
  EXPECT_EQ(names(world.named[0]), names(result));
  EXPECT_THAT(names(result),
              ElementsAre(std::pair("down", 1), std::pair("interleaved", 0), std::pair("embed_padded", 1)));
  EXPECT_EQ(result.tensors_not_counted, 0);
  EXPECT_EQ(world.named[0].tensors_not_counted, 2);  // a fill is counted where it lies
}

TEST(VerifyCounts, NothingIsNamedWhereNothingIsWrong) {
  World world;
  world.tuning.count_seconds = 0;
  EXPECT_TRUE(world.verify().ok());
  EXPECT_THAT(world.named, IsEmpty());
}

/// A gen storage whose elements are those of one tensor, or of two one below the other.
struct Stored {
  std::string storage;
  std::int64_t elements;  ///< of the first tensor
  std::string first, second;
  std::int64_t in_all;
};

/// Spoils random elements of random storages and counts them itself; chunks are of one element upwards.
TEST(VerifyCounts, ManyChunksFindWhatWasSpoilt) {
  const Stored kStored[] = {{"qk", 32 * kHidden, "q", "k", 48 * kHidden},
                            {"gate_up", 32 * kHidden, "gate", "up", 64 * kHidden},
                            {"down", 32 * kHidden, "down", "", 32 * kHidden},
                            {"norm", kHidden, "norm", "", kHidden},
                            {"experts", 2 * 32 * kHidden, "experts", "", 2 * 32 * kHidden},
                            {"w13", 2 * 8 * kHidden, "interleaved", "", 2 * 8 * kHidden},
                            {"w13_bias", 16, "bias", "", 16}};
  for (const std::int64_t chunk_bytes : {1, 2, 7, 66, 1000, 8 * 1024 * 1024}) {
    for (const DType train : {DType::bf16, DType::f32}) {
      World world({.train_dtype = train, .conversions = true});
      world.tuning.chunk_bytes = chunk_bytes;
      world.tuning.batch_bytes = chunk_bytes;
      world.tuning.count_seconds = 1000;
      std::mt19937_64 random(static_cast<std::uint64_t>(chunk_bytes));
      const auto pick = [&](std::int64_t below) {
        return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(below));
      };
      std::map<std::pair<std::string, int>, std::int64_t> expected;
      std::set<std::tuple<std::int32_t, std::string, std::int64_t>> spoilt;
      for (int i = 0; i < 60; ++i) {
        const Stored& stored = kStored[pick(std::ssize(kStored))];
        const auto rank = static_cast<std::int32_t>(pick(World::kGenRanks));
        const std::int64_t element = pick(stored.in_all);
        if (!spoilt.insert({rank, stored.storage, element}).second) continue;
        flip(world, rank, stored.storage, element);
        ++expected[{element < stored.elements ? stored.first : stored.second, rank}];
      }
      const StepResult result = world.verify();
      std::map<std::pair<std::string, int>, std::int64_t> found;
      for (const WrongTensor& wrong : result.wrong) {
        EXPECT_TRUE(wrong.counted);
        found[{wrong.tensor, to_int(wrong.gen_rank)}] = wrong.elements_wrong;
      }
      EXPECT_EQ(found, expected) << chunk_bytes;
      EXPECT_EQ(result.elements_wrong, std::ssize(spoilt)) << chunk_bytes;
      EXPECT_EQ(result.tensors_not_counted, 0);
      world.tuning = Tuning();
      const StepResult at_once = world.verify();
      EXPECT_EQ(result.wrong, at_once.wrong) << chunk_bytes;  // with the first element's place and bits
      EXPECT_EQ(result.kl.max, at_once.kl.max) << chunk_bytes;
      EXPECT_EQ(result.kl.mean, at_once.kl.mean) << chunk_bytes;
    }
  }
}

/// 64 ranks with replicas of 400 tensors: every holder is known to one rank, and none knows more than a few shares.
TEST(VerifyOwners, ShareTheLedgersOfAWorld) {
  constexpr std::int32_t kRanks = 64;
  constexpr std::int32_t kReplicated = 400;
  std::vector<model::Tensor> tensors;
  TableLayout layout(kRanks);
  for (std::int32_t t = 0; t < kReplicated; ++t) {
    model::Tensor& tensor = tensors.emplace_back();
    tensor.index = t;
    tensor.name = "t" + std::to_string(t);
    tensor.shape = {2};
    if (t % 2 == 1) tensor.scale_of = t - 1;
    for (std::int32_t rank = 0; rank < kRanks; ++rank) {
      layout.place(rank, layout.add_storage(rank, tensor.name, {2}, DType::bf16), t, Box::whole({2}), 0);
    }
  }
  std::int64_t all = 0;
  for (std::int32_t owner = 0; owner < kRanks; ++owner) {
    const Ledger ledger(layout, tensors, {kRanks}, Side::source,
                        [&](const model::Tensor& tensor) { return owner_of(tensor, kRanks) == owner; });
    std::int64_t held = 0;
    for (const model::Tensor& tensor : tensors) {
      for (const HeldBox& box : ledger.boxes(tensor.index)) held += std::ssize(ledger.holders(box));
      if (tensor.scale_of < 0) continue;
      EXPECT_EQ(ledger.boxes(tensor.index).empty(), ledger.boxes(tensor.scale_of).empty());
    }
    all += held;
    EXPECT_LE(held, 6 * kReplicated);  // of 400 a rank on average
  }
  EXPECT_EQ(all, kRanks * kReplicated);
}

TEST(VerifyCounts, NanAndInfinitiesAreCountedOncePerTensor) {
  World world({.train_dtype = DType::f32});
  EXPECT_THAT(world.not_finite(Group::train), IsEmpty());
  const auto set = [&](std::int32_t rank, const std::string& name, std::int64_t element, std::uint32_t bits) {
    std::memcpy(world.storage(Group::train, rank, name).data() + 4 * element, &bits, 4);
  };
  for (std::int32_t rank = 0; rank < World::kTrainRanks; ++rank)
    set(rank, "norm", 4, 0x7FC00000U);  // NaN, whole on all
  for (std::int32_t rank : {1, 2}) {
    set(rank, "q", 0, 0xFF800000U);  // -infinity; two replicas
    set(rank, "q", 9, 0x7F800001U);  // a signalling NaN
    set(rank, "k", 2, 0x7F7FFFFFU);  // finite, but not in bf16
  }
  EXPECT_THAT(world.not_finite(Group::train), ElementsAre(NotFinite{kQ, 2}, NotFinite{kNorm, 1}));

  world.set(Group::gen, 0, "norm", 4, 0x7FC0);
  world.set(Group::gen, 1, "norm", 4, 0x7FC0);
  world.set(Group::gen, 2, "norm", 4, 0x7FC0);
  for (std::int32_t rank : {1, 2}) {
    world.set(Group::gen, rank, "qk", 0, 0xFF80);
    world.set(Group::gen, rank, "qk", 9, 0x7FC0);
  }
  for (std::int32_t rank : {0, 1, 2}) world.set(Group::gen, rank, "qk", (32 + 8) * kHidden + 2, 0x7F80);
  const StepResult result = world.verify();
  EXPECT_TRUE(result.ok());  // equal bits
  EXPECT_EQ(result.kl.max, 0.0);
  EXPECT_EQ(result.kl.not_finite, 0);
  EXPECT_THAT(world.not_finite(Group::gen), ElementsAre(NotFinite{kQ, 2}, NotFinite{kK, 1}, NotFinite{kNorm, 1}));
}

TEST(VerifyCounts, WhatACastMakesInfiniteIsCountedOnce) {
  World world({.train_dtype = DType::bf16, .gen_dtype = DType::f16});
  EXPECT_THAT(world.verify().overflows, IsEmpty());
  constexpr std::uint16_t kBeyond = 0x4780, kInfinite = 0x7C00;  // 65536 as bf16, infinity as fp16
  for (std::int32_t rank : {1, 2}) {                             // two replicas of the upper halves
    world.set(Group::train, rank, "q", 9, 0x8000 | kBeyond);
    world.set(Group::train, rank, "q", 3, kBeyond);
    world.set(Group::train, rank, "q", 4, 0x477F);  // 65280
    world.set(Group::train, rank, "q", 5, 0x7F80);  // infinite before
  }
  for (std::int32_t rank = 0; rank < World::kTrainRanks; ++rank) world.set(Group::train, rank, "norm", 4, kBeyond);
  const StepResult wrong = world.verify();  // gen has the values of before
  EXPECT_FALSE(wrong.ok());
  const auto expected = ElementsAre(Overflow{kQ, 2, 32 * kHidden + 3}, Overflow{kNorm, 1, 4});
  EXPECT_THAT(wrong.overflows, expected);

  for (std::int32_t rank = 0; rank < World::kGenRanks; ++rank) world.set(Group::gen, rank, "norm", 4, kInfinite);
  for (std::int32_t rank : {1, 2}) {
    world.set(Group::gen, rank, "qk", 9, 0x8000 | kInfinite);
    world.set(Group::gen, rank, "qk", 3, kInfinite);
    world.set(Group::gen, rank, "qk", 4, 0x7BF8);
    world.set(Group::gen, rank, "qk", 5, kInfinite);
  }
  const StepResult right = world.verify();
  EXPECT_TRUE(right.ok());  // equal bits
  EXPECT_THAT(right.overflows, expected);
}

TEST(VerifyCounts, WhatATransformMakesInfiniteIsCounted) {
  World world({.conversions = true});
  world.set(Group::train, 0, "log", 2, 0x42C8);  // 100, and exp(100) is beyond float32
  EXPECT_THAT(world.verify().overflows, ElementsAre(Overflow{kLog, 1, 2}));
}

TEST(VerifyCounts, AKlOfNanIsMarked) {
  World world;
  world.set(Group::gen, 0, "qk", 5, kernels::kPoison * 0x101);
  const StepResult poisoned = world.verify();
  EXPECT_EQ(poisoned.kl.not_finite, 1);
  EXPECT_TRUE(std::isfinite(poisoned.kl.max));
  World other;
  other.set(Group::gen, 0, "qk", 5, 0x4000);
  EXPECT_EQ(other.verify().kl.not_finite, 0);
}

}  // namespace
}  // namespace refit::verify
