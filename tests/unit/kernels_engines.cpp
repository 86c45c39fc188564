// What copy engines take of tiles, and what they leave to a kernel: together they are the tiles, against a loop over
// indices. On devices the engines copy themselves.

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/engine_copies.hpp"
#include "kernels/memory.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

struct World {
  SharedBuffer source, destination;
  std::vector<Tile> tiles;
  std::vector<std::byte> expected;

  World(std::int64_t source_bytes, std::int64_t destination_bytes)
      : source(source_bytes), destination(destination_bytes) {
    Random random(7);
    for (std::byte& byte : source.span()) byte = static_cast<std::byte>(pick(random, 0, 255));
    std::ranges::fill(destination.span(), std::byte{0xEE});
    expected.assign(destination.span().begin(), destination.span().end());
  }

  /// Adds a tile, and moves its bytes in `expected` one by one.
  void add(const Tile& tile) {
    tiles.push_back(tile);
    const std::int64_t size = byte_size(tile.from);
    for_each_index(tile.extent, [&](const Extents& index, std::int64_t) {
      const std::int64_t from = tile.source - source.data() + size * offset_of(index, tile.source_strides);
      const std::int64_t to = tile.destination - destination.data() + size * offset_of(index, tile.destination_strides);
      std::copy_n(source.data() + from, size, expected.begin() + to);
    });
  }
  Tile tile(std::int64_t from, std::int64_t to, DType dtype, Extents extent, Extents from_strides,
            Extents to_strides) const {
    return {source.data() + from, destination.data() + to, extent, from_strides, to_strides, dtype, dtype};
  }

  /// Runs the tiles by engines and a kernel, and compares; returns what the engines took.
  std::vector<EngineCopy> run(const EngineSizes& sizes, const AllocationOf& allocation = allocation_of) {
    std::vector<Tile> rest = tiles;
    const std::vector<EngineCopy> copies = take_engine_copies(rest, sizes, allocation);
    const ExecutionSpace space;
    const EngineTable engines(copies, sizes);
    const CopyTable kernel(space, rest);
    for (int repetition = 0; repetition < 2; ++repetition) {
      std::ranges::fill(destination.span(), std::byte{0xEE});
      engines.begin(space);
      kernel.run(space);
      engines.finish(space);
      space.fence();
      EXPECT_TRUE(std::ranges::equal(destination.span(), expected));
    }
    std::int64_t bytes = 0;
    for (const EngineCopy& copy : copies) {
      bytes += copy.bytes();
      if (!copy.is_contiguous()) {
        EXPECT_GE(copy.bytes(), sizes.least_strided_bytes);
        EXPECT_GE(copy.row, sizes.least_row_bytes);
        EXPECT_LT(copy.row, sizes.split_row_bytes);
      }
    }
    EXPECT_EQ(bytes, engines.bytes());
    return copies;
  }
};

/// least_bytes, least_strided_bytes, least_row_bytes, split_row_bytes, most_bytes, batch, host_bytes.
EngineSizes sizes(std::int64_t contiguous, std::int64_t strided, std::int64_t row, std::int64_t split) {
  return {contiguous, strided, row, split, 1 << 20, 4, 0};
}

TEST(EngineCopies, AreNoneByDefault) {
  World world(64, 64);
  world.add(world.tile(0, 0, DType::u8, {64}, {1}, {1}));
  EXPECT_TRUE(world.run({}).empty());
}

TEST(EngineCopies, NeighboursAreOneCopy) {
  World world(96, 96);
  for (const std::int64_t at : {64, 0, 32}) world.add(world.tile(at, at, DType::bf16, {4, 4}, {4, 1}, {4, 1}));
  const std::vector<EngineCopy> copies = world.run(sizes(96, 1, 1, 1 << 20));
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_EQ(copies.front().row, 96);
  EXPECT_TRUE(world.run(sizes(97, 1, 1, 1 << 20)).empty());
}

TEST(EngineCopies, NeighboursAtOneEndAreTwo) {
  World world(96, 96);
  world.add(world.tile(0, 0, DType::u8, {32}, {1}, {1}));
  world.add(world.tile(32, 40, DType::u8, {32}, {1}, {1}));
  EXPECT_EQ(world.run(sizes(32, 1, 1, 1 << 20)).size(), 2U);
}

TEST(EngineCopies, StayInOneAllocation) {
  World world(96, 96);
  for (const std::int64_t at : {0, 32, 64}) world.add(world.tile(at, at, DType::u8, {32}, {1}, {1}));
  const AllocationOf halves = [&](const std::byte* address) {
    const bool is_source = address >= world.source.data() && address < world.source.data() + 96;
    const std::byte* begin = is_source ? world.source.data() : world.destination.data();
    return address - begin < 64 ? begin : begin + 64;
  };
  EXPECT_EQ(world.run(sizes(1, 1, 1, 1 << 20), halves).size(), 2U);
  EXPECT_EQ(world.run(sizes(1, 1, 1, 1 << 20)).size(), 1U);
}

TEST(EngineCopies, OfDifferentPeersAreApart) {
  World world(64, 64);
  world.add(world.tile(0, 0, DType::u8, {32}, {1}, {1}));
  Tile other = world.tile(32, 32, DType::u8, {32}, {1}, {1});
  other.peer = 1;
  world.add(other);
  EXPECT_EQ(world.run(sizes(1, 1, 1, 1 << 20)).size(), 2U);
}

/// gate and up of four experts, each of 6 rows of 16 bytes, become rows that alternate, as gpt-oss has them.
TEST(EngineCopies, ExpertsOfAlternatingRowsAreTwoCopiesOfPlanes) {
  constexpr std::int64_t kRow = 16, kRows = 6, kExperts = 4;
  World world(2 * kExperts * kRows * kRow, 2 * kExperts * kRows * kRow);
  for (std::int64_t expert = 0; expert < kExperts; ++expert) {
    for (std::int64_t half = 0; half < 2; ++half) {
      world.add(world.tile((2 * expert + half) * kRows * kRow, 2 * expert * kRows * kRow + half * kRow, DType::bf16,
                           {kRows, kRow / 2}, {kRow / 2, 1}, {kRow, 1}));
    }
  }
  const std::vector<EngineCopy> copies = world.run(sizes(1, kExperts * kRows * kRow, kRow, 1 << 20));
  ASSERT_EQ(copies.size(), 2U);
  for (const EngineCopy& copy : copies) {
    EXPECT_EQ(copy.planes, kExperts);
    EXPECT_EQ(copy.rows, kRows);
    EXPECT_EQ(copy.source_rows, 2 * kRows);
    EXPECT_EQ(copy.destination_rows, kRows);
  }
  EXPECT_TRUE(world.run(sizes(1, kExperts * kRows * kRow + 1, kRow, 1 << 20)).empty());
  EXPECT_TRUE(world.run(sizes(1, 1, kRow + 1, 1 << 20)).empty());
  EXPECT_EQ(
      world.run(sizes(1, 1, 1, kRow)).size(),
      std::size_t{2 * kExperts * kRows -
                  (kExperts - 1)});  // rows by themselves; an expert's last and the next one's first are neighbours
}

TEST(EngineCopies, LongOnesAreCutAndTheLargestComeFirst) {
  World world(1000, 1000);
  world.add(world.tile(0, 0, DType::u8, {100}, {1}, {1}));
  world.add(world.tile(200, 200, DType::u8, {700}, {1}, {1}));
  EngineSizes cut = sizes(1, 1, 1, 1 << 20);
  cut.most_bytes = 300;
  std::vector<std::int64_t> rows;
  for (const EngineCopy& copy : world.run(cut)) rows.push_back(copy.row);
  EXPECT_EQ(rows, (std::vector<std::int64_t>{300, 300, 100, 100}));
}

/// The n longest of 100, 30 and 20 bytes, as long as they have n times what engines copy in the host's time for one.
TEST(EngineCopies, AreNoMoreThanTheHostCanEnqueue) {
  World world(400, 400);
  world.add(world.tile(0, 0, DType::u8, {20}, {1}, {1}));
  world.add(world.tile(100, 100, DType::u8, {100}, {1}, {1}));
  world.add(world.tile(300, 300, DType::u8, {30}, {1}, {1}));
  EngineSizes slow = sizes(1, 1, 1, 1 << 20);
  const std::pair<std::int64_t, std::size_t> rows[] = {{0, 3}, {50, 3}, {51, 2}, {65, 2}, {66, 1}, {100, 1}, {101, 0}};
  for (const auto& [host_bytes, taken] : rows) {
    slow.host_bytes = host_bytes;
    EXPECT_EQ(world.run(slow).size(), taken) << host_bytes;
  }
}

/// Casts, transforms, flags and rows that are strided inside are a kernel's.
TEST(EngineCopies, LeaveToAKernelWhatIsNotPlain) {
  World world(256, 256);
  std::uint64_t flag = 0;
  Tile waits = world.tile(0, 0, DType::u8, {16}, {1}, {1}), signals = waits, cast = waits, negated = waits;
  waits.wait = &flag;
  signals.signal = &flag;
  cast.from = DType::bf16;
  cast.to = DType::f32;
  negated.from = negated.to = DType::bf16;
  negated.transform = Transform::negative_exp;
  std::vector<Tile> tiles{waits,
                          signals,
                          cast,
                          negated,
                          world.tile(0, 0, DType::u8, {4, 4}, {1, 4}, {4, 1}),
                          world.tile(0, 0, DType::u8, {4, 4}, {0, 1}, {4, 1})};
  EXPECT_TRUE(take_engine_copies(tiles, sizes(1, 1, 1, 1 << 20)).empty());
  EXPECT_EQ(tiles.size(), 6U);
}

/// Boxes of arrays of up to four dimensions, cut into tiles, to arrays of other orders and gaps.
TEST(EngineCopies, WithAKernelTheyAreTheTiles) {
  Random random(2027);
  for (int round = 0; round < 300; ++round) {
    const DType dtype = std::vector{DType::u8, DType::bf16, DType::f32}[static_cast<std::size_t>(pick(random, 0, 2))];
    Extents extent = random_extent(random, static_cast<int>(pick(random, 1, 4)), 6);
    Extents from = extent, to = extent;
    std::int64_t from_all = 1, to_all = 1;
    for (int d = extent.size() - 1; d >= 0; --d) {
      from[d] = from_all;
      to[d] = to_all;
      from_all *= extent[d] + pick(random, 0, 1) * pick(random, 0, 1);
      to_all *= extent[d] + pick(random, 0, 1) * pick(random, 0, 1);
    }
    World world(from_all * byte_size(dtype), to_all * byte_size(dtype));
    const int cut = static_cast<int>(pick(random, 0, extent.size() - 1));
    for (std::int64_t i = 0; i < extent[cut];) {
      const std::int64_t count = pick(random, 1, extent[cut] - i);
      Extents part = extent;
      part[cut] = count;
      Tile tile = world.tile(i * from[cut] * byte_size(dtype), i * to[cut] * byte_size(dtype), dtype, part, from, to);
      tile.peer = static_cast<std::int32_t>(pick(random, 0, 1));
      world.add(tile);
      i += count;
    }
    std::shuffle(world.tiles.begin(), world.tiles.end(), random);
    EngineSizes chosen = sizes(pick(random, 1, 40), pick(random, 1, 100), pick(random, 1, 8), pick(random, 8, 40));
    chosen.most_bytes = pick(random, 1, 50);
    chosen.host_bytes = pick(random, 0, 30);
    world.run(chosen);
    if (::testing::Test::HasFailure()) FAIL() << "round " << round << " " << to_string(extent);
  }
}

}  // namespace
}  // namespace refit::kernels
