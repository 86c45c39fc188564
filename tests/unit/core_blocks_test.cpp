// Grids of blocks against an oracle that looks at every element.

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "core/blocks.hpp"

namespace refit {
namespace {

/// Returns every index of a box, in row-major order.
std::vector<Extents> indices_of(const Box& box) {
  std::vector<Extents> all;
  Extents index = box.lower;
  for (std::int64_t n = 0; n < box.volume(); ++n) {
    all.push_back(index);
    for (int d = index.size() - 1; d >= 0; --d) {
      if (++index[d] < box.lower[d] + box.extent[d]) break;
      index[d] = box.lower[d];
    }
  }
  return all;
}

/// Returns the block of an element.
Extents block_of(Extents element, const BlockSize& block) {
  element[element.size() - 2] /= block.rows;
  element[element.size() - 1] /= block.columns;
  return element;
}

bool is_first(const Extents& element, const BlockSize& block) {
  return element[element.size() - 2] % block.rows == 0 && element[element.size() - 1] % block.columns == 0;
}

std::set<Extents> in_box(const Box& box) {
  const std::vector<Extents> all = indices_of(box);
  return {all.begin(), all.end()};
}

std::string place(const Shape& shape, const Box& box, const BlockSize& block) {
  return to_string(box) + " of " + to_string(shape) + " in blocks of " + std::to_string(block.rows) + " x " +
         std::to_string(block.columns);
}

/// Returns all ranges begin .. end - 1 below `length`, the empty ones too.
std::vector<Interval> intervals_below(std::int64_t length) {
  std::vector<Interval> all;
  for (std::int64_t begin = 0; begin <= length; ++begin) {
    for (std::int64_t end = begin; end <= length; ++end) all.push_back({begin, end});
  }
  return all;
}

struct Grid {
  Shape shape;
  BlockSize block;
  Shape expected;
  bool is_ragged;
};

class BlockGrids : public ::testing::TestWithParam<Grid> {};

TEST_P(BlockGrids, HaveTheShapeOfTheTable) {
  EXPECT_EQ(block_grid(GetParam().shape, GetParam().block), GetParam().expected);
  EXPECT_EQ(has_ragged_blocks(GetParam().shape, GetParam().block), GetParam().is_ragged);
}

INSTANTIATE_TEST_SUITE_P(
    Published, BlockGrids,
    ::testing::Values(Grid{{200, 300}, kFp8Block, {2, 3}, true}, Grid{{256, 384}, kFp8Block, {2, 3}, false},
                      Grid{{256, 300}, kFp8Block, {2, 3}, true}, Grid{{1, 1}, kFp8Block, {1, 1}, true},
                      Grid{{8, 576, 7168}, kFp8Block, {8, 5, 56}, true}, Grid{{7, 96}, kMxBlock, {7, 3}, false},
                      Grid{{4, 7, 100}, kMxBlock, {4, 7, 4}, true},
                      Grid{{256, 256}, kFp8Block.finer(4), {8, 8}, false}));

struct Matrix {
  Shape shape;
  BlockSize block;
};

class Blocks : public ::testing::TestWithParam<Matrix> {
 protected:
  /// Calls with(box) for every box of the matrix.
  template <typename With>
  void for_each_box(const With& with) const {
    const Shape& shape = GetParam().shape;
    const int row = shape.size() - 2;
    for (const Interval& rows : intervals_below(shape[row])) {
      for (const Interval& columns : intervals_below(shape[row + 1])) {
        Box box = Box::whole(shape);
        box.lower[row] = rows.begin;
        box.extent[row] = rows.size();
        box.lower[row + 1] = columns.begin;
        box.extent[row + 1] = columns.size();
        if (!box.empty()) with(box);
      }
    }
  }
};

TEST_P(Blocks, TouchedAreThoseOfTheElements) {
  const auto& [shape, block] = GetParam();
  for_each_box([&](const Box& box) {
    std::set<Extents> expected;
    for (const Extents& element : indices_of(box)) expected.insert(block_of(element, block));
    EXPECT_EQ(in_box(touched_blocks(box, block)), expected) << place(shape, box, block);
  });
}

TEST_P(Blocks, BegunAreThoseOfTheFirstElements) {
  const auto& [shape, block] = GetParam();
  for_each_box([&](const Box& box) {
    std::set<Extents> expected;
    for (const Extents& element : indices_of(box)) {
      if (is_first(element, block)) expected.insert(block_of(element, block));
    }
    const Box found = begun_blocks(box, block);
    EXPECT_EQ(found.empty(), expected.empty()) << place(shape, box, block);
    if (!expected.empty()) {
      EXPECT_EQ(in_box(found), expected) << place(shape, box, block);
    }
  });
}

TEST_P(Blocks, WholeOnesHaveAllTheirElements) {
  const auto& [shape, block] = GetParam();
  for (const auto& [length, size] :
       {std::pair(shape[shape.size() - 2], block.rows), std::pair(shape[shape.size() - 1], block.columns)}) {
    for (const Interval& indices : intervals_below(length)) {
      const auto has = [&](std::int64_t at) { return at >= indices.begin && at < indices.end; };
      std::set<std::int64_t> expected;
      for (std::int64_t at = indices.begin; at < indices.end; ++at) {
        bool all = true;
        for (std::int64_t other = at / size * size; other < std::min(length, (at / size + 1) * size); ++other) {
          all = all && has(other);
        }
        if (all) expected.insert(at);
      }
      const Interval found = whole_blocks(indices, size, length);
      std::set<std::int64_t> in_found;
      for (std::int64_t at = found.begin; at < found.end; ++at) in_found.insert(at);
      EXPECT_EQ(in_found, expected) << indices.begin << " .. " << indices.end << " of " << length << " by " << size;
      // The indices that are not whole are before and behind the whole ones, and none is in both.
      EXPECT_LE(indices.begin, found.begin);
      EXPECT_LE(found.begin, found.end);
      EXPECT_LE(found.end, indices.end);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Small, Blocks,
                         ::testing::Values(Matrix{{1, 1}, {4, 4}}, Matrix{{8, 8}, {4, 4}}, Matrix{{7, 9}, {4, 4}},
                                           Matrix{{5, 12}, {1, 4}}, Matrix{{3, 10}, {1, 4}}, Matrix{{6, 5}, {2, 3}},
                                           Matrix{{2, 5, 6}, {4, 4}}));

struct Repeated {
  Shape grid;  ///< of whole blocks
  std::int64_t repeats;
};

class RepeatedScales : public ::testing::TestWithParam<Repeated> {};

TEST_P(RepeatedScales, ArePlacedByTheBlockAndTheFinerOneInIt) {
  const auto& [grid, repeats] = GetParam();
  const Shape finer{grid[0] * repeats, grid[1] * repeats};
  const Box all = repeated_box(Box::whole(grid), repeats);
  EXPECT_EQ(all.volume(), product(finer));
  std::set<Extents> seen;
  for (const Extents& block : indices_of(Box::whole(finer))) {
    const Extents found = repeated_index(block, repeats);
    EXPECT_TRUE(seen.insert(found).second);
    const Extents whole{block[0] / repeats, block[1] / repeats};
    const Box of_whole = repeated_box({whole, {1, 1}}, repeats);
    EXPECT_TRUE(in_box(of_whole).contains(found)) << to_string(block);
  }
  EXPECT_EQ(seen, in_box(all));
}

TEST_P(RepeatedScales, AreCountedWhereTheyLie) {
  const auto& [grid, repeats] = GetParam();
  const Shape finer{grid[0] * repeats, grid[1] * repeats};
  const std::vector<Extents> blocks = indices_of(Box::whole(finer));
  const auto box_between = [](const Extents& first, const Extents& last) {
    Box box{first, first};
    for (int d = 0; d < first.size(); ++d) box.extent[d] = last[d] - first[d] + 1;
    return box;
  };
  const auto is_box = [](const Box& box) {
    return std::all_of(box.extent.begin(), box.extent.end(), [](std::int64_t extent) { return extent > 0; });
  };
  const std::vector<Extents> places = indices_of(repeated_box(Box::whole(grid), repeats));
  for (std::size_t first = 0; first < blocks.size(); first += 3) {
    for (std::size_t last = first; last < blocks.size(); last += 2) {
      const Box wanted = box_between(blocks[first], blocks[last]);
      if (!is_box(wanted)) continue;
      for (std::size_t a = 0; a < places.size(); a += 5) {
        for (std::size_t b = a; b < places.size(); b += 3) {
          const Box part = box_between(places[a], places[b]);
          if (!is_box(part)) continue;
          const std::set<Extents> in_part = in_box(part);
          std::int64_t expected = 0;
          for (const Extents& block : indices_of(wanted)) expected += in_part.contains(repeated_index(block, repeats));
          EXPECT_EQ(count_repeated(part, wanted, repeats), expected) << to_string(part) << " of " << to_string(wanted);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Small, RepeatedScales,
                         ::testing::Values(Repeated{{2, 3}, 1}, Repeated{{2, 2}, 2}, Repeated{{1, 3}, 2},
                                           Repeated{{2, 1}, 4}));

}  // namespace
}  // namespace refit
