// Copy tables against a loop over indices.

#include <gtest/gtest.h>

#include "kernels/copy_items.hpp"
#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "kernels/stream.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

struct Case {
  Tile tile;
  Bytes source, destination, expected;
};

Case make_case(Random& random, DType from, DType to, const Extents& extent, const Extents& from_strides,
               const Extents& to_strides) {
  Case result;
  result.source = random_memory(random, extent, from_strides, from);
  result.destination = random_memory(random, extent, to_strides, to);
  result.expected = result.destination;
  for_each_index(extent, [&](const Extents& index, std::int64_t) {
    const std::uint64_t bits = read_bits(result.source.data(), offset_of(index, from_strides), from);
    const std::uint64_t moved = from == to ? bits : convert_bits(static_cast<std::uint32_t>(bits), from, to);
    write_bits(result.expected.data(), offset_of(index, to_strides), to, moved);
  });
  result.tile = {result.source.data(), result.destination.data(), extent, from_strides, to_strides, from, to};
  return result;
}

Case random_case(Random& random, DType from, DType to, std::int64_t largest) {
  const Extents extent = random_extent(random, static_cast<int>(pick(random, 0, 4)), largest);
  return make_case(random, from, to, extent, random_strides(random, extent), random_strides(random, extent));
}

/// Strides of an array whose dimensions lie in `order`, outermost first, with a gap after the innermost one.
Extents strides_in_order(const Extents& extent, const std::vector<int>& order, std::int64_t gap) {
  Extents strides = extent;
  std::int64_t next = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    strides[*d] = next;
    next *= extent[*d] + (next == 1 ? gap : 0);
  }
  return strides;
}

void run_and_check(std::vector<Case>& cases) {
  std::vector<Tile> tiles;
  std::int64_t read = 0;
  std::int64_t written = 0;
  for (const Case& one : cases) {
    tiles.push_back(one.tile);
    read += product(one.tile.extent) * byte_size(one.tile.from);
    written += product(one.tile.extent) * byte_size(one.tile.to);
  }
  const ExecutionSpace space;
  std::vector<Bytes> before;
  for (const Case& one : cases) before.push_back(one.destination);
  // Whatever the sizes: items down to an element where that is not too many, and rows that bypass the caches.
  const std::int64_t least = written < 100'000 ? 1 : 4096;
  for (const TableSizes& sizes : {TableSizes{}, TableSizes{least, 1, 1}, TableSizes{100 * least, 1, 1}}) {
    for (std::size_t i = 0; i < cases.size(); ++i) std::ranges::copy(before[i], cases[i].destination.begin());
    const CopyTable table(space, tiles, sizes);
    EXPECT_EQ(table.bytes_read(), read);
    EXPECT_EQ(table.bytes_written(), written);
    table.run(space);
    space.fence();
    for (const Case& one : cases) {
      ASSERT_EQ(one.destination, one.expected) << to_string(one.tile.extent) << " items of " << sizes.item_bytes;
    }
  }
}

TEST(CopyTable, MovesBitsOfEveryType) {
  Random random(1);
  std::vector<Case> cases;
  for (DType dtype : kAllTypes) {
    for (int i = 0; i < 40; ++i) cases.push_back(random_case(random, dtype, dtype, 13));
  }
  run_and_check(cases);
}

TEST(CopyTable, CastsBetweenAllPairs) {
  Random random(2);
  std::vector<Case> cases;
  for (DType from : kCastable) {
    for (DType to : kCastable) {
      for (int i = 0; i < 60; ++i) cases.push_back(random_case(random, from, to, 19));
    }
  }
  run_and_check(cases);
}

TEST(CopyTable, EveryOrderOfFourDimensions) {
  Random random(8);
  for (const Extents& extent : {Extents{3, 21, 2, 37}, Extents{2, 16, 33, 2}, Extents{19, 8, 17, 3}}) {
    for (const auto& [from, to] : {std::pair{DType::bf16, DType::bf16},
                                   {DType::f32, DType::bf16},
                                   {DType::bf16, DType::f32},
                                   {DType::u8, DType::u8},
                                   {DType::i64, DType::i64}}) {
      std::vector<int> order{0, 1, 2, 3};
      std::vector<Case> cases;
      do {
        const Extents source = strides_in_order(extent, {0, 1, 2, 3}, pick(random, 0, 2));
        const Extents destination = strides_in_order(extent, order, pick(random, 0, 2));
        cases.push_back(make_case(random, from, to, extent, source, destination));
        cases.push_back(make_case(random, from, to, extent, destination, source));
      } while (std::next_permutation(order.begin(), order.end()));
      run_and_check(cases);
    }
  }
}

TEST(CopyTable, LargeTransposedTiles) {
  Random random(9);
  std::vector<Case> cases;
  // [H, 2 I] becomes [2 I, H]; and [E, H, I, 2], gate and up in turns, becomes [E, 2, I, H].
  cases.push_back(make_case(random, DType::bf16, DType::bf16, {700, 1001}, {1001, 1}, {1, 700}));
  cases.push_back(make_case(random, DType::bf16, DType::bf16, {2, 300, 401, 2}, {300 * 802, 802, 2, 1},
                            {802 * 300, 1, 300, 401 * 300}));
  // Planes whose rows are multiples of four elements, with gaps at both ends; and rows of odd pitch.
  const Extents planes{3, 260, 396};
  for (DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    cases.push_back(make_case(random, dtype, dtype, planes, {260 * 404, 404, 1}, {264 * 400, 1, 264}));
  }
  cases.push_back(make_case(random, DType::bf16, DType::bf16, {260, 396}, {401, 1}, {1, 263}));
  cases.push_back(make_case(random, DType::bf16, DType::f32, planes, {260 * 404, 404, 1}, {264 * 400, 1, 264}));
  run_and_check(cases);
}

TEST(CopyTable, LargeTilesAreCutWithoutLoss) {
  Random random(3);
  for (const auto& [from, to] :
       {std::pair{DType::bf16, DType::bf16}, {DType::f32, DType::bf16}, {DType::u8, DType::u8}}) {
    for (const Extents& extent : {Extents{1000003}, Extents{3, 300001}, Extents{700001, 2}, Extents{31, 7, 53, 101}}) {
      Case one;
      const Extents strides = row_major_strides(extent);
      const Extents wide = random_strides(random, extent);
      one.source = random_memory(random, extent, wide, from);
      one.destination.assign(static_cast<std::size_t>(product(extent) * byte_size(to)), std::byte{1});
      one.expected = one.destination;
      for_each_index(extent, [&](const Extents& index, std::int64_t linear) {
        const std::uint64_t bits = read_bits(one.source.data(), offset_of(index, wide), from);
        write_bits(one.expected.data(), linear, to,
                   from == to ? bits : convert_bits(static_cast<std::uint32_t>(bits), from, to));
      });
      one.tile = {one.source.data(), one.destination.data(), extent, wide, strides, from, to};
      std::vector<Case> cases;
      cases.push_back(std::move(one));
      run_and_check(cases);
    }
  }
}

TEST(CopyTable, TablesThatBypassTheCaches) {
  Random random(6);
  for (const std::int64_t run : {300, 1024, 40000}) {  // bytes of a row; in the source every row is followed by a gap
    const std::int64_t rows = 200'000 / run + 3;
    const std::int64_t stride = run + 52;
    Bytes source(static_cast<std::size_t>(rows * stride));
    for (std::size_t i = 0; i + 8 <= source.size(); i += 8) {
      const std::uint64_t value = random();
      std::memcpy(source.data() + i, &value, 8);
    }
    Bytes destination(static_cast<std::size_t>(rows * run + 2), std::byte{7});
    const Tile tile{source.data(), destination.data() + 1, {rows, run}, {stride, 1}, {run, 1}, DType::u8, DType::u8};
    const ExecutionSpace space;
    CopyTable(space, {&tile, 1}, {0, 1, 1}).run(space);
    space.fence();
    for (std::int64_t row = 0; row < rows; ++row) {
      ASSERT_EQ(
          std::memcmp(destination.data() + 1 + row * run, source.data() + row * stride, static_cast<std::size_t>(run)),
          0)
          << run << " " << row;
    }
    EXPECT_EQ(destination.front(), std::byte{7});
    EXPECT_EQ(destination.back(), std::byte{7});
  }
}

TEST(StreamCopy, EverySizeAndAlignment) {
  Random random(7);
  const Bytes source = random_memory(random, {70000}, {1}, DType::u8);
  Bytes destination(source.size());
  for (int i = 0; i < 2000; ++i) {
    const std::int64_t bytes = i < 300 ? i : pick(random, 0, 69000);
    const std::int64_t from = pick(random, 0, 900);
    const std::int64_t to = pick(random, 1, 900);
    std::fill(destination.begin(), destination.end(), std::byte{7});
    stream_copy(destination.data() + to, source.data() + from, bytes);
    stream_fence();
    ASSERT_EQ(std::memcmp(destination.data() + to, source.data() + from, static_cast<std::size_t>(bytes)), 0);
    ASSERT_EQ(destination[static_cast<std::size_t>(to - 1)], std::byte{7});
    ASSERT_EQ(destination[static_cast<std::size_t>(to + bytes)], std::byte{7});
  }
}

TEST(CopyTable, UnalignedRows) {
  Random random(4);
  Bytes source = random_memory(random, {5000}, {1}, DType::u8);
  Bytes destination(5000, std::byte{0});
  const Tile tile{source.data() + 1, destination.data() + 3, {7, 50}, {100, 1}, {60, 1}, DType::f32, DType::f32};
  const ExecutionSpace space;
  CopyTable(space, {&tile, 1}).run(space);
  space.fence();
  for (std::size_t row = 0; row < 7; ++row) {
    EXPECT_EQ(std::memcmp(destination.data() + 3 + row * 240, source.data() + 1 + row * 400, 200), 0);
  }
  EXPECT_EQ(destination[3 + 200], std::byte{0});
}

/// Rows of one length and pitch, from one address to another: every byte of the rows and none beside them.
void check_rows(Random& random, std::int64_t rows, std::int64_t row, std::int64_t from, std::int64_t to,
                std::int64_t source_gap, std::int64_t gap, DType dtype) {
  const std::int64_t size = byte_size(dtype);
  const Bytes source = random_memory(random, {rows * (row + source_gap) * size + 64}, {1}, DType::u8);
  Bytes destination = random_memory(random, {rows * (row + gap) * size + 64}, {1}, DType::u8);
  Bytes expected = destination;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(expected.data() + to + r * (row + gap) * size, source.data() + from + r * (row + source_gap) * size,
                static_cast<std::size_t>(row * size));
  }
  const Tile tile{
      source.data() + from, destination.data() + to, {rows, row}, {row + source_gap, 1}, {row + gap, 1}, dtype, dtype};
  const ExecutionSpace space;
  CopyTable(space, {&tile, 1}).run(space);
  space.fence();
  ASSERT_EQ(destination, expected) << row << " " << from << " " << to << " " << source_gap << " " << gap;
}

TEST(CopyTable, RowsOfEveryAlignment) {
  Random random(10);
  for (const std::int64_t row : {65, 96, 577, 1500}) {
    for (std::int64_t from = 0; from < 17; ++from) {
      for (const std::int64_t to : {0, 1, 6, 8, 15}) check_rows(random, 5, row, from, to, from % 3, to % 4, DType::u8);
    }
  }
  for (std::int64_t gap = 0; gap < 9; ++gap) {
    for (const std::int64_t row : {33, 577, 4096}) {
      check_rows(random, 40, row, 0, 0, gap, 8 - gap, DType::bf16);
      check_rows(random, 40, row, 2, 4, 0, gap, DType::bf16);
      check_rows(random, 40, row, 4, 8, gap, 0, DType::f32);
    }
  }
}

TEST(CopyTable, CastsOfRowsOfEveryAlignment) {
  Random random(11);
  std::vector<Case> cases;
  for (DType from : kCastable) {
    for (DType to : kCastable) {
      for (const std::int64_t columns : {1, 7, 64, 577, 2048}) {
        for (std::int64_t gap = 0; gap < 8; gap += columns == 64 ? 4 : 3) {
          cases.push_back(make_case(random, from, to, {9, columns}, {columns + gap, 1}, {columns + 7 - gap, 1}));
        }
      }
    }
  }
  run_and_check(cases);
}

TEST(CopyTable, ManyPlanesOfFewElements) {
  Random random(12);
  std::vector<Case> cases;
  for (const Extents& extent : {Extents{40, 30, 2, 8}, Extents{700, 3, 5, 16}, Extents{3, 500, 1, 9}}) {
    const Extents gaps{extent[1] * extent[2] * extent[3] * 8, extent[2] * extent[3] * 4, extent[3] * 2, 1};
    cases.push_back(make_case(random, DType::bf16, DType::bf16, extent, gaps, row_major_strides(extent)));
    cases.push_back(make_case(random, DType::bf16, DType::f32, extent, row_major_strides(extent), gaps));
    cases.push_back(make_case(random, DType::u8, DType::u8, extent, gaps, gaps));
  }
  run_and_check(cases);
}

/// Whatever the order of the tiles, each peer has its share of every part of the table.
TEST(CopyItems, PeersTakeTurnsByBytes) {
  constexpr std::int64_t kBytes = 1 << 20;
  constexpr CopyLimits kLimits{16 << 10, 64};
  const std::int64_t shares[] = {5, 1, 2};
  std::vector<std::byte> memory(8 * kBytes);
  std::byte* at = memory.data();
  std::vector<Tile> tiles;
  for (std::int32_t peer = 0; peer < 3; ++peer) {
    for (std::int64_t i = 0; i < shares[peer]; ++i, at += kBytes) {
      Tile tile{at, at, {kBytes}, {1}, {1}, DType::u8, DType::u8};
      tile.peer = peer;
      tiles.push_back(tile);
    }
  }
  CopySignals signals;
  const std::vector<CopyItem> items = copy_items(tiles, kLimits, signals);
  ASSERT_EQ(items.size(), 8U * 64);
  std::int64_t sent[3] = {};
  std::vector<const std::byte*> last(3, nullptr);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t tile = (items[i].source - memory.data()) / kBytes;
    const std::size_t peer = tile < 5 ? 0 : tile < 6 ? 1 : 2;
    EXPECT_TRUE(last[peer] == nullptr || last[peer] < items[i].source) << "a peer's own order is kept";
    last[peer] = items[i].source;
    ++sent[peer];
    for (int p = 0; p < 3; ++p) {
      EXPECT_NEAR(static_cast<double>(sent[p]), static_cast<double>(shares[p]) * static_cast<double>(i + 1) / 8, 1.0)
          << i << " peer " << p;
    }
  }
}

TEST(CopyTable, NothingToDo) {
  const ExecutionSpace space;
  CopyTable().run(space);
  const Tile empty{nullptr, nullptr, {0, 5}, {5, 1}, {5, 1}, DType::bf16, DType::bf16};
  const CopyTable table(space, {&empty, 1});
  table.run(space);
  EXPECT_EQ(table.bytes_read(), 0);
}

TEST(CopyTable, RefusesATypeThatCannotBeCast) {
  const ExecutionSpace space;
  const Tile tile{nullptr, nullptr, {1}, {1}, {1}, DType::i32, DType::f32};
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);
}

TEST(CopyBytes, OddSizes) {
  Random random(5);
  const ExecutionSpace space;
  for (std::int64_t bytes : {0, 1, 63, 4097, 1000003}) {
    const Bytes source = random_memory(random, {bytes + 2}, {1}, DType::u8);
    Bytes destination(source.size(), std::byte{0});
    copy_bytes(space, source.data() + 1, destination.data(), bytes);
    EXPECT_EQ(std::memcmp(destination.data(), source.data() + 1, static_cast<std::size_t>(bytes)), 0);
    EXPECT_EQ(destination[static_cast<std::size_t>(bytes)], std::byte{0});
  }
}

TEST(CopyBytes, ThroughMemoryOfTheDevice) {
  Random random(13);
  const ExecutionSpace space;
  for (std::int64_t bytes : {1, 4096, 300001, 1 << 20}) {
    const Bytes source = random_memory(random, {bytes}, {1}, DType::u8);
    Bytes back(source.size());
    const DeviceBuffer middle(bytes);
    EXPECT_EQ(middle.bytes(), bytes);
    copy_bytes(space, source.data(), middle.data(), bytes);
    copy_bytes(space, middle.data(), back.data(), bytes);
    EXPECT_EQ(back, source);
  }
}

/// Without a kernel: as often as asked, nothing beside it.
TEST(Transfer, CopiesBytes) {
  Random random(14);
  const ExecutionSpace space;
  const std::int64_t bytes = 300001;
  const Bytes source = random_memory(random, {bytes}, {1}, DType::u8);
  const DeviceBuffer from(bytes), to(bytes + 1);
  copy_bytes(space, source.data(), from.data(), bytes);
  poison(space, to.data(), bytes + 1);
  space.fence();
  transfer(from.data(), to.data(), bytes, 3);
  transfer(nullptr, nullptr, 0);
  Bytes back(source.size() + 1);
  copy_bytes(space, to.data(), back.data(), bytes + 1);
  EXPECT_TRUE(std::equal(source.begin(), source.end(), back.begin()));
  EXPECT_EQ(back.back(), std::byte{kPoison});
}

TEST(Buffers, OwnersShareOneAllocation) {
  const std::byte bytes[] = {std::byte{1}, std::byte{2}, std::byte{3}};
  SharedBuffer copy;
  {
    const SharedBuffer first{std::span<const std::byte>(bytes)};
    copy = first;
    EXPECT_EQ(copy.data(), first.data());
  }
  EXPECT_EQ(copy.bytes(), 3);
  EXPECT_TRUE(std::equal(copy.span().begin(), copy.span().end(), bytes));
  EXPECT_NE(DeviceBuffer(0).data(), nullptr);
  EXPECT_EQ(DeviceBuffer().data(), nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(DeviceBuffer(100).data()) % 64, 0U);
}

TEST(Buffers, TooMuchMemoryIsAnError) {
  EXPECT_THROW(DeviceBuffer(std::int64_t{1} << 60), Error);
  const DeviceBuffer after(1000);  // the failed allocation has left nothing behind
  const ExecutionSpace space;
  poison(space, after.data(), 1000);
  space.fence();
}

}  // namespace
}  // namespace refit::kernels
