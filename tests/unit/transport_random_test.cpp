// Any tensors between any two layouts of 1 to 8 ranks: fused storages, gaps, reversed strides, casts, conversions,
// quantisation on the way, replicas; with sizes so small that every path has many parts.

#include <gtest/gtest.h>

#include "support/random_transport.hpp"
#include "transport_models.hpp"

namespace refit::test_support {
namespace {

class Random : public testing::TestWithParam<Precisions> {};

TEST_P(Random, BulkArrivesByEveryExecutor) {
  const RandomCases cases(is_quantised_on_the_way(GetParam()) ? 10 : 24);
  for (std::uint64_t seed = cases.first; seed < cases.first + static_cast<std::uint64_t>(cases.count); ++seed) {
    const RandomTransport random(seed, GetParam());
    for (const TransportCase& job : random.jobs()) {
      expect_right(job, random.describe(job));
      if (HasFailure()) return;
    }
  }
}

TEST_P(Random, MiscArrivesThroughBuffersOfAnySize) {
  const RandomCases cases(8);
  if (is_quantised_on_the_way(GetParam())) GTEST_SKIP() << "misc carries what is made before it";
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
