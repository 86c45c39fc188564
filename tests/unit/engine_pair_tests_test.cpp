// The pairs of a probe: which are measured together, and which are the slowest and the fastest.

#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "engine/pair_tests.hpp"

namespace refit::engine {
namespace {

using transport::Flow;

TEST(PairTests, EveryPairHasItsTurnOnce) {
  for (const int ranks : {1, 2, 3, 4, 7, 8}) {
    for (const bool alone : {false, true}) {
      const std::vector<int> hosts(static_cast<std::size_t>(ranks), 0);
      std::set<std::pair<int, int>> seen;
      const auto groups = groups_of_pairs(hosts, alone);
      for (const std::vector<Flow>& group : groups) {
        std::set<int> busy;
        for (const Flow& flow : group) {
          EXPECT_LT(flow.from, flow.to);
          EXPECT_TRUE(seen.insert({flow.from, flow.to}).second) << flow.from << " " << flow.to;
          EXPECT_TRUE(busy.insert(flow.from).second && busy.insert(flow.to).second) << "two partners at a time";
        }
        EXPECT_TRUE(!alone || group.size() == 1);
      }
      EXPECT_EQ(std::ssize(seen), ranks * (ranks - 1) / 2);
      EXPECT_TRUE(alone || ranks == 1 || std::ssize(groups) == ranks - 1 + ranks % 2);
    }
  }
}

TEST(PairTests, RoundsHavePairsOfHostsApartFromThoseWithin) {
  const std::vector<int> hosts{0, 0, 1, 1, 2, 0};
  int within = 0, between = 0;
  for (const std::vector<Flow>& group : groups_of_pairs(hosts, false)) {
    std::set<bool> kinds;
    for (const Flow& flow : group) {
      const bool crosses = hosts[static_cast<std::size_t>(flow.from)] != hosts[static_cast<std::size_t>(flow.to)];
      kinds.insert(crosses);
      ++(crosses ? between : within);
    }
    EXPECT_EQ(kinds.size(), 1u);
  }
  EXPECT_EQ(within, 4);
  EXPECT_EQ(between, 11);
}

report::PairMatrix matrix(const std::string& direction, std::vector<std::vector<std::optional<double>>> rates) {
  report::PairMatrix result;
  result.direction = direction;
  result.rates = std::move(rates);
  return result;
}

TEST(PairTests, APairCountsByItsBestMechanismOneWay) {
  const auto none = std::nullopt;
  const Extremes found =
      extremes({matrix("one_way", {{none, 5, none}, {1, none, 8}, {none, 9, none}}),
                matrix("one_way", {{none, 2, 4}, {7, none, 3}, {6, 2, none}}), matrix("both_ways", {{none, 99, 0.1}})});
  EXPECT_TRUE(found.has_any);
  EXPECT_EQ(found.slowest, (Flow{0, 2}));  // 5 4 7 8 6 9
  EXPECT_EQ(found.fastest, (Flow{2, 1}));
  const Extremes alike = extremes({matrix("one_way", {{none, 95}, {100, none}})});
  EXPECT_EQ(alike.slowest, (Flow{0, 1}));
  EXPECT_EQ(alike.fastest, alike.slowest);
  EXPECT_FALSE(extremes({}).has_any);
  EXPECT_FALSE(extremes({matrix("one_way", {{none}})}).has_any);
}

}  // namespace
}  // namespace refit::engine
