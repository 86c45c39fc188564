// Clocks of hosts, compared by barriers whose true times are known.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/timeline.hpp"

namespace refit::engine {
namespace {

TEST(CompareClocks, BoundsHoldTheTrueOffsets) {
  const std::vector<std::uint64_t> places{7, 7, 3, 3, 9};
  const std::map<std::uint64_t, std::int64_t> ahead{{7, 50'000}, {3, -4'000'000'000}, {9, 80'000}};
  std::mt19937_64 random(1);
  std::uniform_int_distribution<std::int64_t> late(0, 40'000);
  std::vector<std::vector<Passage>> passages(places.size());
  for (std::int64_t barrier = 0; barrier < 16; ++barrier) {
    std::vector<std::int64_t> entered;
    for (std::size_t rank = 0; rank < places.size(); ++rank) entered.push_back(1'000'000 * barrier + late(random));
    const std::int64_t last = *std::ranges::max_element(entered);
    for (std::size_t rank = 0; rank < places.size(); ++rank) {
      const std::int64_t clock = ahead.at(places[rank]);
      passages[rank].push_back({entered[rank] + clock, last + 1 + late(random) / 4 + clock});
    }
  }
  const std::map<std::uint64_t, HostClock> hosts = compare_clocks(places, passages);
  ASSERT_EQ(hosts.size(), 3U);
  EXPECT_EQ(hosts.at(7).number, 0U);
  EXPECT_EQ(hosts.at(3).number, 1U);
  EXPECT_EQ(hosts.at(9).number, 2U);
  EXPECT_EQ(hosts.at(7).offset(), 0);
  for (const auto& [place, host] : hosts) {
    const std::int64_t truth = ahead.at(place) - ahead.at(7);
    EXPECT_LE(host.least, truth);
    EXPECT_GE(host.most, truth);
    EXPECT_LE(host.most - host.least, 50'000);  // no wider than one barrier
  }
}

}  // namespace
}  // namespace refit::engine
