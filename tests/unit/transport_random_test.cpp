// Any tensors between any two layouts of 1 to 8 ranks: fused storages, gaps, reversed strides, casts, conversions,
// quantisation on the way, replicas; with sizes so small that every path has many parts.

#include <gtest/gtest.h>

#include "support/random_transport.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

class Random : public testing::TestWithParam<Precisions> {};

TEST_P(Random, BulkArrivesByEveryExecutor) {
  const RandomCases cases(is_quantised_on_the_way(GetParam()) ? 6 : 12);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam());
    for (const TransportCase& job : random.jobs()) {
      expect_right(job, random.describe(job));
      if (HasFailure()) return;
    }
  }
}

TEST_P(Random, BulkArrivesOnColocatedRanks) {
  const RandomCases cases(is_quantised_on_the_way(GetParam()) ? 6 : 12);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam(), 0, true);
    for (const TransportCase& job : random.jobs()) {
      expect_right(job, random.describe(job));
      if (HasFailure()) return;
    }
    expect_right(random.misc(), random.describe(random.misc()));
    if (HasFailure()) return;
  }
}

TEST_P(Random, DeltasArrive) {
  const RandomCases cases(is_quantised_on_the_way(GetParam()) ? 4 : 10);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam(), 0, seed % 3 == 2, Changes::sparse);
    for (const TransportCase& job : random.deltas()) {
      expect_right(job, random.describe(job));
      if (HasFailure()) return;
    }
  }
}

/// Each copy of a box that is relayed has the same chunks, whatever its ends store: they are the box, and small enough.
TEST_P(Random, CopiesOfABoxAreCutAlike) {
  const RandomCases cases(40);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam());
    TransportCase job = random.jobs().back();
    job.passes_on = false;  // what is handed on is cut by rounds
    if (job.quantiser) std::erase_if(job.bulk, [](const model::Tensor& tensor) { return tensor.scale_of >= 0; });
    SCOPED_TRACE(random.describe(job));
    std::vector<Box> relayed;
    plan::Planner(job.bulk, *job.source, *job.destination, job.rules()).for_each_copy([&](const plan::Copy& copy) {
      if (copy.fan_out == plan::FanOut::none) return;
      const std::vector<Box> chunks = fan_out_chunks(copy, job.tuning);
      if (copy.fan_out == plan::FanOut::forwarded) {
        EXPECT_EQ(chunks, relayed);
        return;
      }
      relayed = chunks;
      std::int64_t elements = 0;
      for (const Box& chunk : chunks) {
        EXPECT_EQ(intersect(chunk, copy.box), chunk);
        elements += chunk.volume();
        const std::int64_t bytes = chunk.volume() * byte_size(copy.destination.format.dtype);
        EXPECT_TRUE(chunk.volume() == 1 || bytes <= job.tuning.fan_out_chunk_bytes) << to_string(chunk);
      }
      EXPECT_EQ(elements, copy.elements());
      EXPECT_TRUE(std::is_sorted(chunks.begin(), chunks.end()));
    });
    if (HasFailure()) return;
  }
}

TEST_P(Random, MiscArrivesThroughBuffersOfAnySize) {
  const RandomCases cases(8);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam());
    const TransportCase job = random.misc();
    expect_right(job, random.describe(job));
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, Random, testing::ValuesIn(all_precisions()), [](const auto& suite) {
  std::string name = to_string(suite.param);
  for (char& c : name) c = c == ':' || c == ' ' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace refit::test_support
