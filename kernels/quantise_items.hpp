#pragma once
// The items of a copy table's tiles that are quantised: a few blocks of one matrix each, cut between blocks.
//
// Example: a tile of rows 64 .. 319 of a matrix, quantised in blocks of 128 x 128, becomes items of rows 64 .. 127 and
// 256 .. 319, which have parts of blocks, and of rows 128 .. 255, which have whole ones.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/bits.hpp"
#include "kernels/copy_items.hpp"
#include "kernels/quantiser.hpp"

namespace refit::kernels {

/// The way in which a device works on an item, in the order in which a table's items lie.
enum class QuantiseKind : std::uint8_t {
  blocks,  ///< 128 x 128 blocks that the source has; 2-byte values, both ends in vectors of 16 bytes
  rows,    ///< whole 1 x 32 blocks of such values and ends
  any
};
inline constexpr int kQuantiseKinds = 3;

/// Some blocks of one matrix. Strides go from row to row and from column to column (of values, of blocks, of smaller
/// blocks), in elements.
struct QuantiseItem {
  const std::byte* source;  ///< of the item's first element
  std::byte* destination;   ///< null: the item raises maxima
  std::int64_t source_stride[2];
  std::int64_t destination_stride[2];
  Interval rows, columns;                ///< of the item, in its matrix
  Interval source_rows, source_columns;  ///< the part that the source has
  std::int64_t matrix_rows, matrix_columns;
  std::uint32_t* maxima;  ///< of the item's first block
  std::int64_t maxima_stride[2];
  const std::uint32_t* last;
  std::byte* scales;  ///< of the item's first smaller block; null: not stored
  std::int64_t scale_stride[2];
  std::int8_t small_shift[2];  ///< of smaller blocks, as block_shift
  Quantiser quantiser;
  DType from;
  QuantiseKind kind;
  std::int32_t signal;  ///< index into the table's signals; -1: none
  const std::uint64_t* wait;

  REFIT_FUNCTION const std::byte* value(std::int64_t row, std::int64_t column, std::int64_t size) const {
    return source + size * ((row - rows.begin) * source_stride[0] + (column - columns.begin) * source_stride[1]);
  }
  REFIT_FUNCTION std::byte* byte(std::int64_t row, std::int64_t column) const {
    return destination + (row - rows.begin) * destination_stride[0] + (column - columns.begin) * destination_stride[1];
  }
};

/// Shifts of a row's or column's index that give its block's number: extents of blocks are powers of two.
struct BlockShift {
  int rows, columns;
};
REFIT_FUNCTION BlockShift block_shift(Quantiser quantiser) {
  return is_mx(quantiser) ? BlockShift{0, 5} : BlockShift{7, 7};
}
static_assert(kMxBlock == BlockSize{1 << 0, 1 << 5} && kFp8Block == BlockSize{1 << 7, 1 << 7});

/// Returns how many blocks a span touches.
REFIT_FUNCTION std::int64_t blocks_of(const Interval& span, int shift) {
  return ((span.end - 1) >> shift) - (span.begin >> shift) + 1;
}

/// A block that an item touches.
struct BlockOfItem {
  Interval rows, columns;            ///< the part that the matrix has
  Interval item_rows, item_columns;  ///< the part that the item has
  bool is_ragged;                    ///< the matrix does not have all of it
  bool is_in_source;
  std::uint32_t* maximum;

  /// Makes block (i, j) of the blocks that an item touches.
  REFIT_FUNCTION BlockOfItem(const QuantiseItem& item, const BlockShift& shift, std::int64_t i, std::int64_t j)
      : rows(within(((item.rows.begin >> shift.rows) + i) << shift.rows, shift.rows, {0, item.matrix_rows})),
        columns(within(((item.columns.begin >> shift.columns) + j) << shift.columns, shift.columns,
                       {0, item.matrix_columns})),
        item_rows(within(rows.begin, shift.rows, item.rows)),
        item_columns(within(columns.begin, shift.columns, item.columns)),
        is_ragged(rows.size() < std::int64_t{1} << shift.rows || columns.size() < std::int64_t{1} << shift.columns),
        is_in_source(item.source_rows.holds(rows) && item.source_columns.holds(columns)),
        maximum(item.maxima + i * item.maxima_stride[0] + j * item.maxima_stride[1]) {}

  REFIT_FUNCTION static Interval within(std::int64_t begin, int shift, const Interval& all) {
    const std::int64_t end = begin + (std::int64_t{1} << shift);
    return {begin > all.begin ? begin : all.begin, end < all.end ? end : all.end};
  }
};

/// Returns the magnitude_bits with which ragged blocks of the item are padded; 0 where they are not.
template <typename From>
REFIT_FUNCTION std::uint32_t padding_of(const QuantiseItem& item) {
  if (!pads_with_last(item.quantiser)) return 0;
  const std::int64_t row = item.matrix_rows - 1;
  const std::int64_t column = item.matrix_columns - 1;
  if (item.source_rows.end <= row || item.source_columns.end <= column) return item.last == nullptr ? 0 : *item.last;
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  const auto bits = load<typename From::Bits>(item.value(row, column, kSize), 0);
  return magnitude_bits(std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits))));
}

/// Stores a block's scale in the smaller blocks that the item touches: in all of them by lane 0 of 1, or in some by
/// each of more lanes.
REFIT_FUNCTION void store_scales(const QuantiseItem& item, const BlockOfItem& block, std::uint32_t stored, int lane,
                                 int lanes) {
  if (item.scales == nullptr) return;
  const int row_shift = item.small_shift[0];
  const int column_shift = item.small_shift[1];
  const auto across = static_cast<int>(blocks_of(block.item_columns, column_shift));
  const int count = across * static_cast<int>(blocks_of(block.item_rows, row_shift));
  const std::int64_t row = (block.item_rows.begin >> row_shift) - (item.rows.begin >> row_shift);
  const std::int64_t column = (block.item_columns.begin >> column_shift) - (item.columns.begin >> column_shift);
  for (int i = lane; i < count; i += lanes) {
    const std::int64_t at = (row + i / across) * item.scale_stride[0] + (column + i % across) * item.scale_stride[1];
    if (is_mx(item.quantiser)) {
      store(item.scales, at, static_cast<std::uint8_t>(stored));
    } else {
      store(item.scales, at, stored);
    }
  }
}

/// Returns the bytes that a tile with Transform::quantise reads: its own values, and the others of blocks that its
/// source has.
std::int64_t bytes_read(const Tile& tile);

/// Returns the items of the tiles with Transform::quantise, of at most `elements` or one block, by kind. Appends their
/// signals to `signals`.
std::vector<QuantiseItem> quantise_items(std::span<const Tile> tiles, std::int64_t elements, CopySignals& signals);

/// Enqueues the items, `counts` of each kind. It is defined in quantise_host.cpp and quantise_device.cpp, of which one
/// is built.
void run_quantised(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kQuantiseKinds]);
/// Launches every kernel of quantised items once, with nothing to do, so that it is loaded. On a device only.
void load_quantisers(const ExecutionSpace& space);

}  // namespace refit::kernels
