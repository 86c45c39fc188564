#include "kernels/quantise_items.hpp"

#include <algorithm>
#include <bit>

#include "kernels/item_order.hpp"

namespace refit::kernels {

namespace {

/// The spans of a tile's rows or columns, in its matrix.
struct Axis {
  Interval tile, source;
  std::int64_t matrix, block;

  /// Returns the same spans for a part of the tile.
  Axis with(const Interval& part) const { return {part, source, matrix, block}; }
  /// Returns the tile's indices in blocks that it has completely, or as far as the matrix has them; may be empty.
  Interval whole() const { return whole_blocks(tile, block, matrix); }
  /// Returns the indices of the blocks that the tile touches.
  Interval touched() const {
    const Interval blocks = touched_blocks(tile, block);
    return {blocks.begin * block, std::min(blocks.end * block, matrix)};
  }
};

struct Axes {
  Axis rows, columns;

  Axes(const Axis& of_rows, const Axis& of_columns) : rows(of_rows), columns(of_columns) {}
  explicit Axes(const Tile& tile) {
    const Blocks& blocks = *tile.blocks;
    const BlockSize block = block_size(blocks.quantiser);
    const int last = tile.extent.size() - 1;
    const std::int64_t row_end = blocks.row + tile.extent[last - 1];
    const std::int64_t column_end = blocks.column + tile.extent[last];
    rows = {{blocks.row, row_end}, {blocks.row - blocks.above, row_end + blocks.below}, blocks.rows, block.rows};
    columns = {{blocks.column, column_end},
               {blocks.column - blocks.left, column_end + blocks.right},
               blocks.columns,
               block.columns};
  }

  /// Returns the same axes for a part of the tile.
  Axes with(const Interval& part_rows, const Interval& part_columns) const {
    return {rows.with(part_rows), columns.with(part_columns)};
  }
  /// Returns whether the source has all of the blocks that the tile touches.
  bool in_source() const { return rows.source.holds(rows.touched()) && columns.source.holds(columns.touched()); }
};

void check(const Tile& tile) {
  REFIT_ASSERT(tile.blocks.has_value());
  const Blocks& blocks = *tile.blocks;
  const int dimensions = tile.extent.size();
  REFIT_ASSERT(is_castable(tile.from) && tile.to == DType::f8_e4m3);
  REFIT_ASSERT(dimensions >= 2 && dimensions <= kWalkedDimensions);
  REFIT_ASSERT(tile.source_strides.size() == dimensions);
  REFIT_ASSERT(tile.destination == nullptr || tile.destination_strides.size() == dimensions);
  REFIT_ASSERT(blocks.maxima == nullptr || blocks.maxima_strides.size() == dimensions);
  REFIT_ASSERT(blocks.scales == nullptr || blocks.scale_strides.size() == dimensions);
  REFIT_ASSERT(blocks.repeats > 0 && block_size(blocks.quantiser).rows % blocks.repeats == 0);
  REFIT_ASSERT(!is_mx(blocks.quantiser) || blocks.columns % block_size(blocks.quantiser).columns == 0);
  REFIT_ASSERT(blocks.row >= 0 && blocks.row + tile.extent[dimensions - 2] <= blocks.rows);
  REFIT_ASSERT(blocks.column >= 0 && blocks.column + tile.extent[dimensions - 1] <= blocks.columns);
  REFIT_ASSERT(blocks.last == nullptr || dimensions == 2 ||
               product(tile.extent) == tile.extent[dimensions - 2] * tile.extent[dimensions - 1]);
  if (tile.destination == nullptr) {
    REFIT_ASSERT(blocks.maxima != nullptr);
  } else {
    REFIT_ASSERT(blocks.maxima != nullptr || !needs_maxima(tile));
    REFIT_ASSERT(blocks.last != nullptr || !needs_last(tile));
  }
}

bool is_vector(const void* address, std::int64_t bytes_of_row) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0 && bytes_of_row % 16 == 0;
}

QuantiseKind kind_of(const QuantiseItem& item, const Axes& axes) {
  constexpr std::int64_t kElements = 16;  // of a store
  const bool vectors =
      byte_size(item.from) == 2 && item.columns.begin % kElements == 0 && item.columns.size() % kElements == 0 &&
      item.matrix_columns % kElements == 0 && item.source_stride[1] == 1 && item.destination_stride[1] == 1 &&
      is_vector(item.source, 2 * item.source_stride[0]) && is_vector(item.destination, item.destination_stride[0]);
  const Axes part = axes.with(item.rows, item.columns);
  if (item.destination == nullptr || !vectors || !part.in_source()) return QuantiseKind::any;
  if (!is_mx(item.quantiser)) return QuantiseKind::blocks;
  return part.columns.whole().size() == item.columns.size() ? QuantiseKind::rows : QuantiseKind::any;
}

/// Makes the item of the given rows and columns of a tile of one matrix.
QuantiseItem make_item(const Tile& whole, const Axes& axes, const Interval& rows, const Interval& columns) {
  const int last = whole.extent.size() - 1;
  const Tile tile = part_of(part_of(whole, last - 1, rows.begin - axes.rows.tile.begin, rows.size()), last,
                            columns.begin - axes.columns.tile.begin, columns.size());
  const Blocks& blocks = *tile.blocks;
  const auto strides = [last](const Extents& all, bool used, std::int64_t(&to)[2]) {
    for (int d = 0; d < 2; ++d) to[d] = used ? all[last - 1 + d] : 0;
  };
  QuantiseItem item{};
  item.source = tile.source;
  item.destination = tile.destination;
  strides(tile.source_strides, true, item.source_stride);
  strides(tile.destination_strides, tile.destination != nullptr, item.destination_stride);
  item.rows = rows;
  item.columns = columns;
  item.source_rows = axes.rows.source;
  item.source_columns = axes.columns.source;
  item.matrix_rows = blocks.rows;
  item.matrix_columns = blocks.columns;
  item.maxima = blocks.maxima;
  strides(blocks.maxima_strides, blocks.maxima != nullptr, item.maxima_stride);
  item.last = blocks.last;
  item.scales = blocks.scales;
  strides(blocks.scale_strides, blocks.scales != nullptr, item.scale_stride);
  const BlockShift shift = block_shift(blocks.quantiser);
  const int smaller = std::countr_zero(static_cast<std::uint64_t>(blocks.repeats));
  item.small_shift[0] = static_cast<std::int8_t>(shift.rows - smaller);
  item.small_shift[1] = static_cast<std::int8_t>(shift.columns - smaller);
  item.quantiser = blocks.quantiser;
  item.from = tile.from;
  item.kind = kind_of(item, axes);
  item.signal = -1;
  item.wait = tile.wait;
  return item;
}

/// Calls with_span for the tile's indices before its whole blocks, for its whole blocks in steps of `step`, and for the
/// indices behind them.
template <typename WithSpan>
void split(const Axis& axis, std::int64_t step, const WithSpan& with_span) {
  const Interval whole = axis.whole();
  if (axis.tile.begin < whole.begin) with_span(Interval{axis.tile.begin, whole.begin});
  for (std::int64_t i = whole.begin; i < whole.end; i += step) with_span(Interval{i, std::min(i + step, whole.end)});
  if (whole.end < axis.tile.end) with_span(Interval{whole.end, axis.tile.end});
}

/// Appends the items of a tile of one matrix.
void append(const Tile& tile, std::int64_t elements, std::int32_t signal, std::vector<QuantiseItem>& items) {
  const Axes axes(tile);
  const std::int64_t columns = std::clamp<std::int64_t>(elements / axes.rows.block, axes.columns.block,
                                                        std::max(axes.columns.block, axes.columns.tile.size()));
  const std::int64_t wide = columns / axes.columns.block * axes.columns.block;
  const std::int64_t high = std::max(axes.rows.block, elements / wide / axes.rows.block * axes.rows.block);
  split(axes.rows, high, [&](const Interval& rows) {
    split(axes.columns, wide, [&](const Interval& of_columns) {
      items.push_back(make_item(tile, axes, rows, of_columns));
      items.back().signal = signal;
    });
  });
}

}  // namespace

Tile part_of(const Tile& tile, int dimension, std::int64_t first, std::int64_t count) {
  Tile part = tile;
  part.extent[dimension] = count;
  part.source += first * tile.source_strides[dimension] * byte_size(tile.from);
  if (tile.destination != nullptr) {
    part.destination += first * tile.destination_strides[dimension] * byte_size(tile.to);
  }
  if (!tile.blocks) return part;
  Blocks& blocks = *part.blocks;
  const bool is_row = dimension == tile.extent.size() - 2;
  const bool is_column = dimension == tile.extent.size() - 1;
  // In blocks and in smaller ones; dimensions that count matrices advance by one of them.
  std::int64_t moved = first;
  std::int64_t moved_small = first;
  if (is_row || is_column) {
    std::int64_t& at = is_row ? blocks.row : blocks.column;
    const BlockSize block = block_size(blocks.quantiser);
    const std::int64_t size = is_row ? block.rows : block.columns;
    const std::int64_t small = size / blocks.repeats;
    moved = (at + first) / size - at / size;
    moved_small = (at + first) / small - at / small;
    at += first;
    (is_row ? blocks.above : blocks.left) += first;
    (is_row ? blocks.below : blocks.right) += tile.extent[dimension] - first - count;
  }
  if (blocks.maxima != nullptr) blocks.maxima += moved * blocks.maxima_strides[dimension];
  if (blocks.scales != nullptr) {
    blocks.scales += moved_small * blocks.scale_strides[dimension] * byte_size(scale_dtype(blocks.quantiser));
  }
  return part;
}

bool needs_maxima(const Tile& tile) { return !Axes(tile).in_source(); }

bool needs_last(const Tile& tile) {
  const Axes axes(tile);
  const auto touches_ragged = [](const Axis& axis) {
    return axis.matrix % axis.block != 0 && axis.touched().end == axis.matrix;
  };
  const bool is_in_source = axes.rows.source.end == axes.rows.matrix && axes.columns.source.end == axes.columns.matrix;
  return pads_with_last(tile.blocks->quantiser) && !is_in_source &&
         (touches_ragged(axes.rows) || touches_ragged(axes.columns));
}

std::int64_t bytes_read(const Tile& tile) {
  const std::int64_t own = product(tile.extent);
  if (own == 0 || tile.destination == nullptr) return own * byte_size(tile.from);
  const Axes axes(tile);
  std::int64_t values = 0;
  split(axes.rows, axes.rows.matrix, [&](const Interval& rows) {
    split(axes.columns, axes.columns.matrix, [&](const Interval& columns) {
      const Axes part = axes.with(rows, columns);
      values +=
          part.in_source() ? part.rows.touched().size() * part.columns.touched().size() : rows.size() * columns.size();
    });
  });
  const std::int64_t matrices = own / (axes.rows.tile.size() * axes.columns.tile.size());
  return matrices * values * byte_size(tile.from);
}

std::vector<QuantiseItem> quantise_items(std::span<const Tile> tiles, std::int64_t elements, CopySignals& signals) {
  std::vector<UnorderedItem<QuantiseItem>> items;
  std::vector<QuantiseItem> parts;
  for (const Tile& tile : tiles) {
    if (tile.transform != Transform::quantise) continue;
    check(tile);
    if (product(tile.extent) == 0) continue;
    const std::int32_t signal = signals.index_of(tile.signal);
    const int matrices = tile.extent.size() - 2;
    const std::int64_t outer = matrices > 0 ? tile.extent[0] : 1;
    const std::int64_t inner = matrices > 1 ? tile.extent[1] : 1;
    for (std::int64_t i = 0; i < outer; ++i) {
      const Tile one = matrices > 0 ? part_of(tile, 0, i, 1) : tile;
      for (std::int64_t j = 0; j < inner; ++j)
        append(matrices > 1 ? part_of(one, 1, j, 1) : one, elements, signal, parts);
    }
    for (const QuantiseItem& part : parts) {
      signals.count_item(part.signal);
      items.push_back({part, static_cast<int>(part.kind), tile.peer, part.rows.size() * part.columns.size()});
    }
    parts.clear();
  }
  return ordered(items);
}

}  // namespace refit::kernels
