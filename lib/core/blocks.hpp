#pragma once
// Grids of blocks: the arithmetic of matrices that are quantised in blocks, each of which has a scale.
//
// Blocks count from the matrix's first row and column; the last ones are ragged where the matrix ends within them. The
// last two dimensions of a shape or box are rows and columns, those before them count matrices and stay as they are.
//
// Example: [200, 300] in blocks of 128 x 128 is a grid of [2, 3], whose last row and column are ragged. Rows 64 .. 199
// touch rows 0 and 1 of the grid; row 1 begins in them and lies completely in them.

#include "core/box.hpp"

namespace refit {

/// Rows and columns of a block.
struct BlockSize {
  std::int64_t rows = 1;
  std::int64_t columns = 1;

  /// Returns the size of the smaller blocks of which each block has `repeats` x `repeats`.
  constexpr BlockSize finer(std::int64_t repeats) const { return {rows / repeats, columns / repeats}; }
  friend constexpr bool operator==(const BlockSize&, const BlockSize&) = default;
};

/// FP8 with a float32 scale for each block, as checkpoints of DeepSeek-V3 and engines have it.
inline constexpr BlockSize kFp8Block{128, 128};
/// OCP's MX formats: one scale for 32 values of a row.
inline constexpr BlockSize kMxBlock{1, 32};

/// Indices begin .. end - 1: rows or columns of a matrix, or of a grid.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  constexpr std::int64_t size() const { return end - begin; }
  constexpr bool holds(const Interval& other) const { return begin <= other.begin && other.end <= end; }
  friend constexpr bool operator==(const Interval&, const Interval&) = default;
};

// The next functions work along one dimension: `size` is that of a block.

/// Returns the blocks of which `indices` have a part. E.g. 64 .. 199 in blocks of 128: blocks 0 and 1.
constexpr Interval touched_blocks(const Interval& indices, std::int64_t size) {
  return {indices.begin / size, ceil_div(indices.end, size)};
}

/// Returns the blocks whose first index is among `indices`; may be empty. E.g. 64 .. 199: block 1.
constexpr Interval begun_blocks(const Interval& indices, std::int64_t size) {
  return {ceil_div(indices.begin, size), ceil_div(indices.end, size)};
}

/// Returns the part of `indices` that consists of whole blocks, where the last block ends at a matrix's `length`; may
/// be empty. E.g. 64 .. 199 of 200: 128 .. 199, but of 300: none.
constexpr Interval whole_blocks(const Interval& indices, std::int64_t size, std::int64_t length) {
  const std::int64_t first = round_up(indices.begin, size);
  const std::int64_t begin = first < indices.end ? first : indices.end;
  const std::int64_t end = indices.end == length ? length : indices.end / size * size;
  return {begin, end < begin ? begin : end};
}

// The functions below work on whole matrices.

/// Returns the shape of a matrix's grid, ragged blocks included.
Shape block_grid(const Shape& shape, const BlockSize& block);

/// Returns whether a matrix's last row or column of blocks is ragged.
bool has_ragged_blocks(const Shape& shape, const BlockSize& block);

/// Returns the blocks of which `box` has a part, as a box of the grid.
Box touched_blocks(const Box& box, const BlockSize& block);

/// Returns the blocks whose first element is in `box`, as a box of the grid; may be empty.
Box begun_blocks(const Box& box, const BlockSize& block);

// An engine whose ranks cut through blocks keeps scales for finer ones: `repeats` x `repeats` equal scales for each
// block. Their tensor is [rows, repeats, columns, repeats] for a grid [rows, columns]; without repetition it is the
// grid.

/// Returns the place of a finer block's scale in that tensor. E.g. block [5, 2] with repeats 4 is [1, 1, 0, 2].
Extents repeated_index(const Extents& finer_block, std::int64_t repeats);

/// Returns the scales of all finer blocks of `blocks`, a box of the grid. E.g. [0:2, 3:4] with repeats 4: [0:2, 0:4,
/// 3:4, 0:4].
Box repeated_box(const Box& blocks, std::int64_t repeats);

/// Returns how many of `finer_blocks` have their scales in `part`, a box of that tensor.
std::int64_t count_repeated(const Box& part, const Box& finer_blocks, std::int64_t repeats);

}  // namespace refit
