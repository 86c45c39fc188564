// No knob changes a byte: streams, groups, chunks, rings, communicators, misc buffers; and what they promise of memory.

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <map>
#include <set>

#include "core/box.hpp"
#include "transport/segment.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

using plan::Policy;

TEST(Tuning, NeverChangesTheResultAndBoundsTheRing) {
  for (const char* model : {"qwen3", "qwen3_moe"}) {
    Job job(model, "TP2xPP2", "TP4");
    for (bool per_stage : {false, true}) {
      for (std::int64_t streams : {1, 3}) {
        for (std::int64_t group_size : {1, 1024}) {
          for (std::int64_t ring_chunks : {1, 2}) {
            for (std::int64_t chunk_bytes : {64, 1000, 1 << 20}) {
              TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
              one.per_stage = per_stage;
              one.tuning = {streams, group_size, chunk_bytes, ring_chunks};
              const std::string what = fmt::format("{} per stage {} streams {} group {} chunk {} ring {}", model,
                                                   per_stage, streams, group_size, chunk_bytes, ring_chunks);
              for (const RankOutcome& outcome : expect_right(one, what)) {
                EXPECT_LE(outcome.staging_bytes, streams * ring_chunks * chunk_bytes) << what;
              }
            }
          }
        }
      }
    }
  }
}

/// Messages of all sizes are packed, some of them, or none; in packs of one, of a few, of all that a chunk takes.
TEST(Tuning, PacksWhatIsSmall) {
  for (const auto& [model, train, gen, to] :
       {std::tuple("qwen3", "TP2xPP2", "TP4", DType::bf16), std::tuple("qwen3_moe", "EP2", "TP2xDP2i", DType::f32),
        std::tuple("gpt_oss", "EP2", "TP1", DType::bf16)}) {
    Job job(model, train, gen, DType::bf16, to);
    for (const std::int64_t small : {0, 100, 3000, 1 << 20}) {
      for (const std::int64_t packed : {1, 500, 1 << 20}) {
        for (const std::int64_t chunk : {64, 4096, 1 << 20}) {
          TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
          one.tuning = {2, 5, chunk, 2};
          one.tuning.small_bytes = small;
          one.tuning.packed_bytes = packed;
          expect_right(one, fmt::format("{} small {} packed {} chunk {}", model, small, packed, chunk));
        }
      }
    }
  }
}

/// One message where all are small and fit; with nothing to stage but for it, as many bytes as it has.
TEST(Tuning, OnePackIsOneMessage) {
  Job job("llama", "TP1", "TP1");
  TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
  one.tuning = {1, 1024, 1 << 24, 2};
  one.tuning.small_bytes = 0;
  const std::vector<RankOutcome> apart = expect_right(one, "none packed");
  one.tuning.small_bytes = 1 << 24;
  const std::vector<RankOutcome> packed = expect_right(one, "all packed");
  EXPECT_GT(apart.front().schedule.operations, 10);
  std::int64_t bytes = 0;
  for (const model::Tensor& tensor : one.bulk) bytes += tensor.bytes();
  for (const RankOutcome& outcome : packed) {
    EXPECT_EQ(outcome.schedule.operations, 1);
    EXPECT_EQ(outcome.schedule.groups, 1);
    EXPECT_GE(outcome.staging_bytes, bytes);
    EXPECT_LE(outcome.staging_bytes, bytes + 64 * apart.front().schedule.operations);
  }
}

TEST(Tuning, TheRingIsNoLargerThanWhatIsStaged) {
  Job job("qwen3", "TP2", "TP1");
  TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
  std::int64_t strided = 0;  // column parts, which train ranks have contiguously and gen does not
  for (const model::Tensor& tensor : one.bulk) {
    const bool by_column = tensor.role == model::Role::o_proj || tensor.role == model::Role::down_proj;
    if (by_column) strided += tensor.elements() * byte_size(DType::bf16);
  }
  one.tuning = {2, 1 << 20, 1 << 20, 1000};
  one.tuning.small_bytes = 0;
  EXPECT_EQ(expect_right(one, "one group").back().staging_bytes, strided);
  one.tuning.chunk_bytes = 1024;
  EXPECT_GE(expect_right(one, "a chunk for each group").back().staging_bytes, strided);
  one.tuning.ring_chunks = 3;
  EXPECT_LE(expect_right(one, "three chunks").back().staging_bytes, std::min<std::int64_t>(strided - 1, 2 * 3 * 1024));
}

TEST(Tuning, BoundsGroupsAndDividesThemAmongStreams) {
  Job job("qwen3", "PP2", "TP1");
  TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
  one.tuning = {1, 1, 1 << 20, 2};
  one.tuning.small_bytes = 0;
  const transport::Schedule single = expect_right(one, "one at a time").back().schedule;
  EXPECT_EQ(single.operations, 1);
  EXPECT_EQ(single.serial_groups, single.groups);
  one.tuning.streams = 2;
  one.tuning.group_size = 1 << 20;
  const transport::Schedule stages = expect_right(one, "a group for each stage").back().schedule;
  EXPECT_EQ(stages.groups, 2);
  EXPECT_EQ(stages.serial_groups, 1);
  EXPECT_GT(stages.operations, 1);
  one.tuning.streams = 1;
  EXPECT_EQ(expect_right(one, "one stream").back().schedule.serial_groups, 2);
}

TEST(Tuning, DividesOneStageAmongAllStreams) {
  Job job("qwen3", "TP1", "TP1");
  TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
  one.tuning = {3, 1 << 20, 1 << 20, 2};
  one.tuning.small_bytes = 0;
  const transport::Schedule schedule = expect_right(one, "three streams").back().schedule;
  EXPECT_EQ(schedule.groups, 3);
  EXPECT_EQ(schedule.serial_groups, 1);
}

/// Returns segments of several sources and destinations, in one order.
std::vector<transport::Segment> segments_of_all() {
  std::vector<transport::Segment> all;
  for (std::int32_t i = 0; i < 60; ++i) {
    transport::Segment segment;
    segment.copy.tensor = i;
    segment.copy.source.rank = Rank{i % 2};
    segment.copy.destination.rank = Rank{i % 3};
    segment.bytes = std::int64_t{1} << (i * 7 % 30);
    segment.zero_copy_source = i % 4 != 0;
    segment.zero_copy_destination = i % 5 != 0;
    all.push_back(segment);
  }
  return all;
}

/// Returns the messages of a rank, as it sees its own segments.
std::vector<transport::Parcel> parcels_of(const auto& is_mine, const transport::Tuning& tuning) {
  std::vector<transport::Segment> mine;
  std::ranges::copy_if(segments_of_all(), std::back_inserter(mine), is_mine);
  return pack(mine, tuning);
}

std::vector<std::int32_t> tensors_of(const transport::Parcel& parcel) {
  std::vector<std::int32_t> tensors;
  for (const transport::Segment& segment : parcel.segments) tensors.push_back(segment.copy.tensor);
  return tensors;
}

/// All messages of a job have one order, of which every rank has its own: it is that of a rank that has all.
TEST(Segments, ArePackedAlikeAndInOneOrder) {
  transport::Tuning tuning;
  for (const std::int64_t small : {0, 1000, 1 << 20, 1 << 30}) {
    for (const std::int64_t packed : {1, 5000, 16 << 20}) {
      tuning.small_bytes = small;
      tuning.packed_bytes = packed;
      const auto all = parcels_of([](const auto&) { return true; }, tuning);
      std::set<std::int32_t> seen;
      std::pair<int, std::int64_t> last{0, std::numeric_limits<std::int64_t>::max()};  // turn and bytes
      std::map<std::pair<Rank, Rank>, std::array<std::int64_t, 3>> by_turn;
      std::map<std::pair<Rank, Rank>, std::int64_t> last_before;
      for (const transport::Parcel& parcel : all) {
        std::int64_t bytes = 0;
        for (const transport::Segment& segment : parcel.segments) {
          EXPECT_EQ(segment.copy.source.rank, parcel.first().source.rank);
          EXPECT_EQ(segment.copy.destination.rank, parcel.first().destination.rank);
          if (parcel.is_packed()) {
            EXPECT_LT(segment.bytes, small);
          }
          bytes = round_up(bytes, transport::kChunkAlignment) + segment.bytes;
          EXPECT_TRUE(seen.insert(segment.copy.tensor).second);
        }
        EXPECT_EQ(parcel.bytes, bytes);
        if (parcel.is_packed()) {
          EXPECT_LE(parcel.bytes, packed);
        }
        const bool is_staged = !parcel.is_zero_copy_source() || !parcel.is_zero_copy_destination();
        EXPECT_EQ(parcel.turn == 1, is_staged);
        EXPECT_TRUE(parcel.turn > last.first || (parcel.turn == last.first && parcel.bytes <= last.second));
        last = {parcel.turn, parcel.bytes};
        const auto pair = std::pair(parcel.first().source.rank, parcel.first().destination.rank);
        by_turn[pair][static_cast<std::size_t>(parcel.turn)] += parcel.bytes;
        if (parcel.turn == 0) last_before[pair] = parcel.bytes;
      }
      // Half before what is staged, but for a part of the last message.
      for (const auto& [pair, bytes] : by_turn) {
        if (bytes[1] == 0) {
          EXPECT_EQ(bytes[2], 0);
          continue;
        }
        EXPECT_GE(2 * bytes[0], bytes[0] + bytes[2]);
        if (bytes[0] > 0) {
          EXPECT_LT(2 * (bytes[0] - last_before[pair]), bytes[0] + bytes[2]);
        }
      }
      EXPECT_EQ(seen.size(), 60U);
      if (small > 1000 && packed > 5000) {
        EXPECT_LE(all.size(), 40U);
      }
      for (std::int32_t rank = 0; rank < 3; ++rank) {
        for (const bool sends : {true, false}) {
          const auto is_mine = [&](const transport::Segment& segment) {
            return (sends ? segment.copy.source.rank : segment.copy.destination.rank) == Rank{rank};
          };
          std::vector<std::vector<std::int32_t>> expected, found;
          for (const transport::Parcel& parcel : all)
            if (is_mine(parcel.segments.front())) expected.push_back(tensors_of(parcel));
          for (const transport::Parcel& parcel : parcels_of(is_mine, tuning)) found.push_back(tensors_of(parcel));
          EXPECT_EQ(found, expected);
        }
      }
    }
  }
}

TEST(Segments, AreDealtAlikeAtBothEndsOfAPair) {
  const transport::Tuning tuning{.small_bytes = 0};
  const auto tensors = [](const std::vector<transport::Parcel>& part, Rank source, Rank destination) {
    std::vector<std::int32_t> found;
    for (const transport::Parcel& parcel : part) {
      const plan::Copy& copy = parcel.first();
      if (copy.source.rank == source && copy.destination.rank == destination) found.push_back(copy.tensor);
    }
    return found;
  };
  for (std::int32_t from = 0; from < 2; ++from) {
    for (std::int32_t to = 0; to < 3; ++to) {
      const auto sent =
          deal(parcels_of([&](const auto& s) { return s.copy.source.rank == Rank{from}; }, tuning), 2, tuning);
      const auto received =
          deal(parcels_of([&](const auto& s) { return s.copy.destination.rank == Rank{to}; }, tuning), 2, tuning);
      for (std::size_t part = 0; part < 2; ++part) {
        const std::vector<std::int32_t> mine = tensors(sent[part], Rank{from}, Rank{to});
        EXPECT_EQ(mine, tensors(received[part], Rank{from}, Rank{to}));
        EXPECT_FALSE(mine.empty());
      }
    }
  }
}

TEST(Golden, TakesOneCommunicatorOrOnePerStage) {
  Job job("qwen3_moe", "TP2xPP2", "TP2xEP2");
  for (bool per_stage : {false, true}) {
    for (std::int64_t streams : {1, 2, 5}) {
      TransportCase one = job.make(Policy::ffn, ExecutorKind::golden);
      one.per_stage = per_stage;
      one.tuning.streams = streams;
      expect_right(one, fmt::format("per stage {} streams {}", per_stage, streams));
    }
  }
}

TEST(Misc, SpansBuffersOfAnySize) {
  Job job("qwen2", "TP2xPP2", "TP2xDP2");
  for (std::int64_t bytes : {64, 1024, 1 << 24}) {
    TransportCase one = job.make(Policy::all, ExecutorKind::p2p);
    one.bulk.clear();
    one.misc.clear();
    for (const model::Tensor& tensor : one.model->tensors) {
      const bool long_enough = tensor.elements() > 40 * bytes;  // at most 160 buffers for one tensor
      (long_enough ? one.bulk : one.misc).push_back(tensor);
    }
    one.misc_buffer_bytes = bytes;
    expect_right(one, fmt::format("misc buffers of {} bytes", bytes));
  }
}

TEST(Misc, StagesTwoBuffersAndOneRing) {
  Job job("qwen3", "TP2", "TP2");
  TransportCase one = job.make(Policy::ffn, ExecutorKind::p2p);
  one.misc_buffer_bytes = 4096;
  one.tuning = {2, 1024, 1 << 20, 2};
  one.tuning.small_bytes = 0;
  const std::vector<RankOutcome> outcomes = expect_right(one, "misc");
  EXPECT_GT(outcomes[0].misc_staging_bytes, 2 * 4096);  // gathers column parts of o_proj
  EXPECT_LE(outcomes[0].misc_staging_bytes, 2 * 4096 + 2 * 4096);
  EXPECT_EQ(outcomes[1].misc_staging_bytes, 0);  // sends from its storages
  EXPECT_EQ(outcomes[2].misc_staging_bytes, 2 * 4096);
}

TEST(Misc, TheRingIsWhatTheGathersStage) {
  Job job("qwen3", "TP2", "TP2");
  TransportCase one = job.make(Policy::ffn, ExecutorKind::p2p);
  std::int64_t staged = 0;  // column parts of train rank 1, contiguous there and not in a buffer
  std::int64_t largest = 0;
  std::int64_t stream = 0;
  for (const model::Tensor& tensor : one.misc) {
    stream += tensor.bytes();
    if (tensor.role != model::Role::o_proj) continue;
    staged += tensor.bytes() / 2;
    largest = std::max(largest, tensor.bytes() / 2);
  }
  one.misc_buffer_bytes = 1 << 24;
  one.tuning = {4, 1024, 64 << 20, 2};
  one.tuning.small_bytes = 0;
  std::vector<RankOutcome> outcomes = expect_right(one, "one group");
  EXPECT_EQ(outcomes[0].misc_staging_bytes - staged, outcomes[2].misc_staging_bytes);
  EXPECT_LT(outcomes[2].misc_staging_bytes - stream, 256);  // one buffer

  one.tuning.chunk_bytes = largest;
  outcomes = expect_right(one, "groups of one part");
  EXPECT_EQ(outcomes[0].misc_staging_bytes - 2 * largest, outcomes[2].misc_staging_bytes);
}

TEST(Direct, ServesPairsThatCannotBeMappedByP2p) {
  Job job("qwen3", "TP2xPP2", "TP2");
  TransportCase one = job.make(Policy::all, ExecutorKind::direct);
  one.unmapped = {{0, 4}, {3, 5}, {0, 1}};  // the last: two train ranks, which never meet
  const std::vector<RankOutcome> outcomes = expect_right(one, "two pairs unmapped");
  const std::vector<std::int64_t> expected{1, 0, 0, 1, 1, 1};
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].unmapped_peers, expected[rank]) << rank;
  }
}

TEST(Direct, NeedsNoStagingWhereAllAreMapped) {
  Job job("qwen3_moe", "TP2xEP2", "TP2", DType::f32, DType::bf16);
  for (const RankOutcome& outcome : expect_right(job.make(Policy::all, ExecutorKind::direct), "mapped")) {
    EXPECT_EQ(outcome.staging_bytes, 0);
    EXPECT_EQ(outcome.unmapped_peers, 0);
  }
}

TEST(Direct, FallsBackAltogetherWhereNothingIsMapped) {
  Job job("qwen2", "PP2", "TP2", DType::f32, DType::bf16);
  TransportCase one = job.make(Policy::all, ExecutorKind::direct);
  for (int source : {0, 1}) {
    for (int destination : {2, 3}) one.unmapped.insert({source, destination});
  }
  for (const RankOutcome& outcome : expect_right(one, "nothing mapped")) EXPECT_EQ(outcome.unmapped_peers, 2);
}

/// As engines allocate it: storages behind each other at odd places of many blocks.
TEST(Direct, StoresIntoMemoryThatOthersHaveAllocated) {
  for (const auto& [model, train, gen] : {std::tuple("qwen3", "TP2xPP2", "TP2"), std::tuple("qwen3_moe", "EP2", "TP4"),
                                          std::tuple("gpt_oss", "EP2", "TP1")}) {
    Job job(model, train, gen, DType::bf16, DType::f32);
    TransportCase one = job.make(Policy::all, ExecutorKind::direct);
    one.foreign = true;
    for (const RankOutcome& outcome : expect_right(one, model)) {
      EXPECT_EQ(outcome.staging_bytes, 0);
      EXPECT_EQ(outcome.unmapped_peers, 0);
    }
  }
}

TEST(Direct, ServesRanksWithPrivateMemoryByP2p) {
  Job job("qwen3", "TP2xPP2", "TP2");
  TransportCase one = job.make(Policy::all, ExecutorKind::direct);
  one.foreign = true;
  one.private_ranks = {5};
  const std::vector<RankOutcome> outcomes = expect_right(one, "one of two gen ranks has private memory");
  const std::vector<std::int64_t> expected{0, 1, 0, 1, 0, 2};  // TP ranks 1 of both stages send to it
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    EXPECT_EQ(outcomes[rank].unmapped_peers, expected[rank]) << rank;
  }
}

}  // namespace
}  // namespace refit::test_support
