// The parts of a strided box that lie in a range of a storage, against a look at every element.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "digest/contents.hpp"

namespace refit::digest {
namespace {

/// Returns the offsets of the elements in the range, from a walk over the box, each as often as it was met.
std::multiset<std::int64_t> offsets(const Box& box, std::int64_t offset, const Extents& strides,
                                    const Extents& origin) {
  std::multiset<std::int64_t> result;
  for (std::int64_t i = 0; i < box.volume(); ++i) {
    Extents index = unravel(i, box);
    for (int d = 0; d < index.size(); ++d) index[d] -= origin[d];
    result.insert(offset + offset_of(index, strides));
  }
  return result;
}

TEST(DigestWithin, FindsEveryElementOnce) {
  std::mt19937_64 random(7);
  const auto up_to = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  std::int64_t parts_met = 0;
  for (int round = 0; round < 3000; ++round) {
    const int dimensions = 1 + static_cast<int>(up_to(4));
    Box box;
    for (int d = 0; d < dimensions; ++d) {
      box.lower.push_back(up_to(5));
      box.extent.push_back(1 + up_to(5));
    }
    // Strides of a row-major array with gaps, its dimensions in any order.
    std::vector<int> order(static_cast<std::size_t>(dimensions));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    Extents strides = Extents::filled(dimensions, 0);
    std::int64_t next = 1 + up_to(2);
    for (const int d : order) {
      strides[d] = next;
      next *= box.extent[d] + up_to(3);
    }
    const std::int64_t offset = up_to(20);
    const std::int64_t first = up_to(offset + next);
    const std::int64_t end = first + up_to(offset + next);
    std::multiset<std::int64_t> expected;
    for (const std::int64_t at : offsets(box, offset, strides, box.lower)) {
      if (at >= first && at < end) expected.insert(at);
    }
    std::multiset<std::int64_t> found;
    for_each_within(box, offset, strides, first, end, [&](const Box& part) {
      ++parts_met;
      for (const std::int64_t at : offsets(part, offset, strides, box.lower)) found.insert(at);
    });
    EXPECT_EQ(found, expected) << to_string(box) << " at " << offset << " " << to_string(strides) << " in " << first
                               << " .. " << end;
  }
  EXPECT_GT(parts_met, 1000);
}

/// A range of a row-major array is a beginning, a middle and an end in each dimension: no list of elements.
TEST(DigestWithin, MakesFewParts) {
  std::int64_t parts = 0;
  std::int64_t elements = 0;
  for_each_within(Box::whole({1000, 100, 100}), 5, {10'000, 100, 1}, 123'456, 9'876'543, [&](const Box& part) {
    ++parts;
    elements += part.volume();
  });
  EXPECT_LE(parts, 5);
  EXPECT_EQ(elements, 9'876'543 - 123'456);
}

TEST(DigestWithin, CutsStoragesIntoWholeRows) {
  using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(ranges({4, 3, 5}, 12), (Ranges{{0, 10}, {10, 10}, {20, 10}, {30, 10}, {40, 10}, {50, 10}}));
  EXPECT_EQ(ranges({2, 5}, 3), (Ranges{{0, 3}, {3, 2}, {5, 3}, {8, 2}}));
  EXPECT_EQ(ranges({}, 3), (Ranges{{0, 1}}));
  EXPECT_EQ(ranges({0, 5}, 3), Ranges{});
}

}  // namespace
}  // namespace refit::digest
