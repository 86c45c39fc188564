// Quantised tiles against the reference of the whole matrix, whatever the tiling.
//
// REFIT_QUANTISED_BLOCKS is the number of blocks that the test quantises, e.g. 10000000, by as many threads as there
// are cores; REFIT_QUANTISED_SEED their seed.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <thread>

#include "kernels/kernels.hpp"
#include "kernels/quantise_reference.hpp"
#include "unit/kernels_random.hpp"
#include "unit/quantiser_values.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;
using quantiser_test::kAll;

/// A strided array in memory that kernels reach.
struct Array {
  Extents extent, strides;
  DType dtype;
  Bytes memory;

  std::byte* at(const Extents& index) { return memory.data() + offset_of(index, strides) * byte_size(dtype); }
};

Array random_array(Random& random, const Extents& extent, DType dtype, bool aligned) {
  Array result{extent, random_strides(random, extent), dtype, {}};
  if (aligned) {
    Extents padded = extent;
    padded[extent.size() - 1] = round_up(extent[extent.size() - 1], 16);
    result.strides = row_major_strides(padded);
  }
  result.memory = random_memory(random, extent, result.strides, dtype);
  return result;
}

/// Returns a few indices that cut `size` of them into parts, with both ends.
std::vector<std::int64_t> random_cuts(Random& random, std::int64_t size, std::int64_t multiple) {
  std::set<std::int64_t> cuts{0, size};
  for (std::int64_t i = pick(random, 0, 2); i > 0; --i) cuts.insert(pick(random, 0, size / multiple) * multiple);
  return {cuts.begin(), cuts.end()};
}

/// Returns the first byte that differs; -1 if none.
std::int64_t first_difference(const Bytes& found, const Bytes& expected) {
  const auto [at, other] = std::mismatch(found.begin(), found.end(), expected.begin(), expected.end());
  return at == found.end() ? -1 : at - found.begin();
}

/// Matrices of one quantiser, a number of them in up to two dimensions.
class Matrices {
 public:
  Matrices(Random& random, Quantiser quantiser) : random_(random), quantiser_(quantiser) {
    const bool is_mx = refit::is_mx(quantiser);
    dtype_ = std::array{DType::f32, DType::bf16, DType::f16}[random() % 3];
    aligned_ = pick(random, 0, 1) == 0;
    std::int64_t rows = pick(random, 1, 5);
    std::int64_t columns = is_mx ? 32 * pick(random, 1, 20) : pick(random, 1, 600);
    if (pick(random, 0, 2) == 0 && !is_mx) std::swap(rows, columns);
    if (pick(random, 0, 40) == 0) {
      rows = pick(random, 100, 400);
      columns = is_mx ? 32 * pick(random, 3, 12) : pick(random, 100, 400);
    }
    if (aligned_ && !is_mx && columns > 16) columns = columns / 16 * 16;
    for (std::int64_t i = std::max<std::int64_t>(0, pick(random, -2, 2)); i > 0; --i) {
      shape_.push_back(pick(random, 1, 2));
    }
    matrices_ = shape_.size();
    shape_.push_back(rows);
    shape_.push_back(columns);
    if (!is_mx) repeats_ = std::array{1, 2, 4}[random() % 3];
    fill_values();
    quantise();
  }

  std::int64_t blocks() const { return product(grid(1)); }
  std::int64_t elements() const { return product(shape_); }

  /// Adds the tables of every piece of a random partition, each of which lies in memory of its own, in random tiles:
  /// first the maxima that pieces contribute to shared blocks, then the tiles that quantise.
  void add(std::vector<Tile>& contributions, std::vector<Tile>& tiles) {
    bytes_ = random_array(random_, shape_, DType::f8_e4m3, aligned_);
    scales_ = random_array(random_, grid(repeats_), scale_dtype(quantiser_), false);
    maxima_ = random_array(random_, grid(1), DType::u32, false);
    last_ = random_array(random_, head_of(shape_, 1), DType::u32, false);
    std::fill(maxima_.memory.begin(), maxima_.memory.end(), std::byte{0});
    std::fill(last_.memory.begin(), last_.memory.end(), std::byte{0});
    expected_bytes_ = expected(bytes_, reference_bytes_, shape_, 1);
    expected_scales_ = expected(scales_, reference_scales_, grid(1), repeats_);
    for (const Box& piece : random_boxes(Box::whole(shape_))) {
      Array& source = sources_.emplace_back(stored(piece));
      add_contributions(piece, source, contributions);
      for (const Box& box : random_boxes(piece)) add_tiles(box, piece, source, tiles);
    }
  }

  /// Checks everything after the tables have run.
  void check() const {
    ASSERT_EQ(first_difference(bytes_.memory, expected_bytes_), -1) << *this;
    ASSERT_EQ(first_difference(scales_.memory, expected_scales_), -1) << *this << " scales repeated " << repeats_;
  }

  friend std::ostream& operator<<(std::ostream& out, const Matrices& of) {
    return out << name(of.quantiser_) << " " << name(of.dtype_) << " " << to_string(of.shape_);
  }

 private:
  /// Returns the grid of scales that are stored `repeats` x `repeats` times, but in ragged blocks as often as there are
  /// smaller blocks.
  Extents grid(std::int64_t repeats) const {
    Extents result = head_of(shape_, 0);
    result[matrices_] = ceil_div(result[matrices_], block_size(quantiser_).rows / repeats);
    result[matrices_ + 1] = ceil_div(result[matrices_ + 1], block_size(quantiser_).columns / repeats);
    return result;
  }
  Extents head_of(Extents extents, std::int64_t inner) const {
    for (int d = matrices_; d < matrices_ + 2 && inner != 0; ++d) extents[d] = inner;
    return extents;
  }

  void fill_values() {
    values_.resize(static_cast<std::size_t>(product(shape_) * byte_size(dtype_)));
    const auto exponent =
        static_cast<int>(pick(random_, 0, 1) == 0 ? pick(random_, -150, 127) : pick(random_, -20, 10));
    const auto usual = static_cast<int>(pick(random_, quantiser_test::kFirstUsual - 1, quantiser_test::kKinds - 1));
    const bool with_specials = pick(random_, 0, 2) == 0;
    for (std::int64_t i = 0; i < product(shape_); ++i) {
      const bool special = with_specials && random_() % 400 == 0;
      const int kind = special ? static_cast<int>(random_() % quantiser_test::kFirstUsual) : usual;
      const auto smaller = static_cast<int>(random_() % 13);
      const std::uint32_t bits = quantiser_test::random_value(random_, kind, exponent - smaller);
      write_bits(values_.data(), i, dtype_, convert_bits(bits, DType::f32, dtype_));
    }
  }

  void quantise() {
    const std::int64_t rows = shape_[matrices_];
    const std::int64_t columns = shape_[matrices_ + 1];
    const std::int64_t count = product(shape_) / (rows * columns);
    const std::int64_t scale_bytes = blocks() / count * byte_size(scale_dtype(quantiser_));
    reference_bytes_.resize(static_cast<std::size_t>(product(shape_)));
    reference_scales_.resize(static_cast<std::size_t>(count * scale_bytes));
    for (std::int64_t m = 0; m < count; ++m) {
      quantise_reference(quantiser_, values_.data() + m * rows * columns * byte_size(dtype_), dtype_, rows, columns,
                         columns, reinterpret_cast<std::uint8_t*>(reference_bytes_.data()) + m * rows * columns,
                         reference_scales_.data() + m * scale_bytes);
    }
  }

  /// Returns the bytes of `array` with all its elements set to those of `from`, row-major of `shape`, each of which is
  /// stored repeats x repeats times.
  Bytes expected(const Array& array, const std::vector<std::byte>& from, const Shape& shape,
                 std::int64_t repeats) const {
    const Extents strides = row_major_strides(shape);
    Bytes result = array.memory;
    for_each_index(array.extent, [&](const Extents& index, std::int64_t) {
      Extents of = index;
      of[matrices_] /= repeats;
      of[matrices_ + 1] /= repeats;
      write_bits(result.data(), offset_of(index, array.strides), array.dtype,
                 read_bits(from.data(), offset_of(of, strides), array.dtype));
    });
    return result;
  }

  std::vector<Box> random_boxes(const Box& whole) {
    const std::int64_t multiple = aligned_ ? (pick(random_, 0, 1) == 0 ? 16 : 128) : 1;
    const std::vector<std::int64_t> rows = random_cuts(random_, whole.extent[matrices_], aligned_ ? multiple / 16 : 1);
    const std::vector<std::int64_t> columns = random_cuts(random_, whole.extent[matrices_ + 1], multiple);
    std::vector<Box> result;
    for (std::size_t r = 0; r + 1 < rows.size(); ++r) {
      for (std::size_t c = 0; c + 1 < columns.size(); ++c) {
        Box box = whole;
        box.lower[matrices_] += rows[r];
        box.lower[matrices_ + 1] += columns[c];
        box.extent[matrices_] = rows[r + 1] - rows[r];
        box.extent[matrices_ + 1] = columns[c + 1] - columns[c];
        result.push_back(box);
      }
    }
    return result;
  }

  Array stored(const Box& piece) {
    Array result = random_array(random_, piece.extent, dtype_, aligned_);
    const Extents strides = row_major_strides(shape_);
    for_each_index(piece.extent, [&](const Extents& index, std::int64_t) {
      Extents global = index;
      for (int d = 0; d < index.size(); ++d) global[d] += piece.lower[d];
      write_bits(result.memory.data(), offset_of(index, result.strides), dtype_,
                 read_bits(values_.data(), offset_of(global, strides), dtype_));
    });
    return result;
  }

  /// Returns the tile of a box of a stored piece, without a destination.
  Tile tile_of(const Box& box, const Box& piece, Array& source) const {
    Tile tile;
    tile.source = source.at(relative(box, piece));
    tile.extent = box.extent;
    tile.source_strides = source.strides;
    tile.from = dtype_;
    tile.to = DType::f8_e4m3;
    tile.transform = Transform::quantise;
    Blocks& blocks = tile.blocks.emplace();
    const int row = matrices_;
    const int column = matrices_ + 1;
    blocks.quantiser = quantiser_;
    blocks.row = box.lower[row];
    blocks.column = box.lower[column];
    blocks.rows = shape_[row];
    blocks.columns = shape_[column];
    blocks.above = box.lower[row] - piece.lower[row];
    blocks.left = box.lower[column] - piece.lower[column];
    blocks.below = piece.extent[row] - blocks.above - box.extent[row];
    blocks.right = piece.extent[column] - blocks.left - box.extent[column];
    return tile;
  }

  Extents block_of(const Box& box, std::int64_t repeats) const {
    Extents result = box.lower;
    result[matrices_] /= block_size(quantiser_).rows / repeats;
    result[matrices_ + 1] /= block_size(quantiser_).columns / repeats;
    return result;
  }

  void add_contributions(const Box& piece, Array& source, std::vector<Tile>& tiles) {
    Tile tile = tile_of(piece, piece, source);
    tile.blocks->maxima = reinterpret_cast<std::uint32_t*>(maxima_.at(block_of(piece, 1)));
    tile.blocks->maxima_strides = maxima_.strides;
    tiles.push_back(tile);
    for (int d : {matrices_, matrices_ + 1}) {
      if (piece.lower[d] + piece.extent[d] != shape_[d]) return;
      tile = part_of(tile, d, piece.extent[d] - 1, 1);
    }
    tile.blocks->maxima = reinterpret_cast<std::uint32_t*>(last_.memory.data());
    tile.blocks->maxima_strides = last_.strides;
    tiles.push_back(tile);
  }

  void add_tiles(const Box& box, const Box& piece, Array& source, std::vector<Tile>& tiles) {
    Tile tile = tile_of(box, piece, source);
    tile.destination = bytes_.at(box.lower);
    tile.destination_strides = bytes_.strides;
    tile.blocks->repeats = repeats_;
    tile.blocks->scales = scales_.at(block_of(box, repeats_));
    tile.blocks->scale_strides = scales_.strides;
    if (needs_maxima(tile)) {
      tile.blocks->maxima = reinterpret_cast<std::uint32_t*>(maxima_.at(block_of(box, 1)));
      tile.blocks->maxima_strides = maxima_.strides;
    }
    if (!needs_last(tile)) return tiles.push_back(tile);
    for_each_index(head_of(shape_, 1), [&](const Extents& index, std::int64_t) {
      Tile one = tile;
      for (int d = 0; d < matrices_; ++d) one = part_of(one, d, index[d], 1);
      one.blocks->last = reinterpret_cast<const std::uint32_t*>(last_.at(index));
      tiles.push_back(one);
    });
  }

  Random& random_;
  Quantiser quantiser_;
  DType dtype_ = DType::f32;
  bool aligned_ = false;  ///< rows begin at multiples of 16 elements
  int matrices_ = 0;      ///< dimensions before rows and columns
  std::int64_t repeats_ = 1;
  Shape shape_;
  std::vector<std::byte> values_, reference_bytes_, reference_scales_;  ///< of all matrices, row-major
  std::vector<Array> sources_;                                          ///< of every piece
  Array bytes_, scales_, maxima_, last_;
  Bytes expected_bytes_, expected_scales_;
};

/// Checks at least that many random blocks, in tables of 64 matrices.
void check_random_blocks(Random random, Quantiser quantiser, std::int64_t blocks) {
  const ExecutionSpace space;
  while (blocks > 0 && !testing::Test::HasFatalFailure()) {
    std::vector<Matrices> matrices;
    std::vector<Tile> contributions, tiles;
    std::int64_t elements = 0;
    for (int i = 0; i < 64; ++i) {
      matrices.emplace_back(random, quantiser);
      matrices.back().add(contributions, tiles);
      elements += matrices.back().elements();
      blocks -= matrices.back().blocks();
    }
    CopyTable(space, contributions).run(space);
    const CopyTable table(space, tiles);
    table.run(space);
    space.fence();
    ASSERT_EQ(table.bytes_written(), elements);
    for (const Matrices& each : matrices) each.check();
  }
}

TEST(Quantise, EqualsTheReferenceInAnyTiling) {
  const std::int64_t blocks = setting("REFIT_QUANTISED_BLOCKS", 100000);
  const auto seed = static_cast<std::uint64_t>(setting("REFIT_QUANTISED_SEED", 12));
  const std::int64_t threads = std::max(1U, std::thread::hardware_concurrency());
  const std::int64_t share = blocks / std::ssize(kAll) / threads + 1;  // some on every machine
  std::vector<std::jthread> workers;
  for (std::int64_t thread = 0; thread < threads; ++thread) {
    workers.emplace_back([=] {
      for (Quantiser quantiser : kAll) {
        std::seed_seq seeds{seed, static_cast<std::uint64_t>(thread), static_cast<std::uint64_t>(quantiser)};
        check_random_blocks(Random(seeds), quantiser, share);
      }
    });
  }
}

/// Runs three tables as three ranks would: values arrive, are quantised, and their bytes are passed on, each as soon as
/// the flag of the one before is raised.
void check_chain(Quantiser quantiser) {
  const Extents shape{256, 512};
  const Extents strides{512, 1};
  const std::int64_t elements = product(shape);
  Random random(13);
  Bytes values(static_cast<std::size_t>(2 * elements)), arrived(values.size()), bytes(values.size() / 2),
      passed = bytes;
  Bytes flags(4 * sizeof(std::uint64_t), std::byte{0});
  auto* flag = reinterpret_cast<std::uint64_t*>(flags.data());
  Tile arrival{values.data(), arrived.data(), shape, strides, strides, DType::bf16, DType::bf16};
  Tile quantised{arrived.data(), bytes.data(), shape,          strides,
                 strides,        DType::bf16,  DType::f8_e4m3, Transform::quantise};
  Tile passing{bytes.data(), passed.data(), shape, strides, strides, DType::f8_e4m3, DType::f8_e4m3};
  Blocks& blocks = quantised.blocks.emplace();
  blocks.quantiser = quantiser;
  blocks.rows = shape[0];
  blocks.columns = shape[1];
  std::vector<Tile> tables[3];
  arrival.signal = flag;
  tables[0] = {arrival};
  quantised.wait = flag;
  // Whole blocks, and two parts of blocks.
  const std::int64_t cuts[] = {0, 128, 200, 256};
  for (int i = 0; i < 3; ++i) {
    quantised.signal = flag + 1 + i;
    passing.wait = flag + 1 + i;
    tables[1].push_back(part_of(quantised, 0, cuts[i], cuts[i + 1] - cuts[i]));
    tables[2].push_back(part_of(passing, 0, cuts[i], cuts[i + 1] - cuts[i]));
  }
  const ExecutionSpace spaces[3];
  const CopyTable ranks[3] = {{spaces[0], tables[0]}, {spaces[1], tables[1]}, {spaces[2], tables[2]}};
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch) {
    for (std::int64_t i = 0; i < elements; ++i) write_bits(values.data(), i, DType::bf16, random() & 0xBFFFU);
    std::vector<std::thread> threads;
    for (int rank : {2, 1, 0}) {
      threads.emplace_back([&, rank] {
        ranks[rank].run(spaces[rank], epoch);
        spaces[rank].fence();
      });
    }
    for (std::thread& thread : threads) thread.join();
    Bytes expected(passed.size()), scales(passed.size());
    quantise_reference(quantiser, values.data(), DType::bf16, shape[0], shape[1], shape[1],
                       reinterpret_cast<std::uint8_t*>(expected.data()), scales.data());
    ASSERT_EQ(first_difference(passed, expected), -1) << name(quantiser) << " " << epoch;
  }
}

TEST(Quantise, WaitsForFlagsAndRaisesThem) {
  check_chain(Quantiser::nemo_rl);
  check_chain(Quantiser::mxfp8);
}

TEST(Quantise, RefusesWhatItCannotDo) {
  const ExecutionSpace space;
  std::byte bytes[64];
  Tile tile{bytes, bytes, {4, 4}, {4, 1}, {4, 1}, DType::bf16, DType::f8_e4m3, Transform::quantise};
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);  // no blocks
  Blocks& blocks = tile.blocks.emplace();
  blocks.rows = blocks.columns = 4;
  CopyTable(space, {&tile, 1});
  blocks.rows = 5;
  EXPECT_TRUE(needs_maxima(tile));
  EXPECT_TRUE(needs_last(tile));
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);  // no maxima
  blocks.below = 1;
  EXPECT_FALSE(needs_maxima(tile));
  EXPECT_FALSE(needs_last(tile));
  CopyTable(space, {&tile, 1});
  blocks.quantiser = Quantiser::mxfp8;
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);  // 4 columns are no whole block
  blocks.quantiser = Quantiser::te;
  tile.to = DType::bf16;
  EXPECT_THROW(CopyTable(space, {&tile, 1}), Error);
}

}  // namespace
}  // namespace refit::kernels
