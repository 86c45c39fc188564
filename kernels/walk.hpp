#pragma once
// Walks of kernels over the elements of a region: its rows, cut into items of about equal size.

#include <cstdint>

#include "kernels/device.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

/// A region as rows (all dimensions but the last, flattened in the box's order) and columns (the last).
struct Rows {
  std::byte* data = nullptr;
  std::int64_t extent[3] = {1, 1, 1};
  std::int64_t stride[3] = {0, 0, 0};      ///< elements between rows of one dimension, in storage
  std::int64_t row_stride[3] = {0, 0, 0};  ///< the same as global flattened rows
  std::int64_t first_row = 0;              ///< global flattened index of the box's first row
  std::int64_t first_column = 0;           ///< global
  std::int64_t row_length = 1;             ///< columns of the whole tensor
  std::int64_t rows = 1;                   ///< of the box
  std::int64_t columns = 1;                ///< of the box
  std::int64_t column_stride = 1;

  struct Row {
    std::int64_t offset;  ///< of the row's first element in storage
    std::int64_t global;  ///< global flattened row
  };
  REFIT_FUNCTION Row row(std::int64_t index) const {
    Row result{0, first_row};
    for (int d = 2; d >= 0; --d) {
      const std::int64_t rest = index < extent[d] ? 0 : index / extent[d];  // a division costs more than the rest here
      const std::int64_t position = index - rest * extent[d];
      result.offset += position * stride[d];
      result.global += position * row_stride[d];
      index = rest;
    }
    return result;
  }
};

/// Returns the rows of a region; throws if its parts have different numbers of dimensions.
Rows rows_of(const Region& region);

/// Returns the same elements in the same order as longer rows without their place in the tensor: rows that follow each
/// other in storage and in the tensor are joined, and row_length is 1. For kernels that only need global linear
/// indices.
Rows joined(const Rows& rows);

/// Items of `rows_per_item` rows and `columns_per_item` columns; the last of each are smaller.
struct Cut {
  std::int64_t rows_per_item;
  std::int64_t columns_per_item;
  std::int64_t column_items;
  std::int64_t items;

  struct Item {
    std::int64_t row, rows, column, columns;  ///< within the box
  };
  REFIT_FUNCTION Item item(const Rows& all, std::int64_t index) const {
    Item result{};
    result.row = index / column_items * rows_per_item;
    result.column = index % column_items * columns_per_item;
    result.rows = all.rows - result.row < rows_per_item ? all.rows - result.row : rows_per_item;
    result.columns = all.columns - result.column < columns_per_item ? all.columns - result.column : columns_per_item;
    return result;
  }
};

/// Cuts into items of at most `columns` columns and about `elements` elements.
Cut cut(const Rows& rows, std::int64_t columns, std::int64_t elements);

/// Returns the elements of an item on a device, of `elements` in one launch: enough items for all its teams, in
/// multiples of every vector's length.
std::int64_t device_item_elements(std::int64_t elements);

/// Returns true where every row's part of an item begins at a multiple of 16 bytes, for items cut at such multiples.
bool has_aligned_rows(const Rows& rows, std::int64_t element_bytes);

/// Returns true where rows also end at such multiples: they can be read in vectors of 16 bytes.
bool has_vector_rows(const Rows& rows, std::int64_t element_bytes);

}  // namespace refit::kernels
