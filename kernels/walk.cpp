#include "kernels/walk.hpp"

#include <algorithm>

namespace refit::kernels {

namespace {

constexpr std::int64_t kVector = 16;

}  // namespace

Rows rows_of(const Region& region) {
  const int dimensions = region.shape.size();
  REFIT_ASSERT(dimensions <= kWalkedDimensions);
  REFIT_ASSERT(region.box.lower.size() == dimensions && region.box.extent.size() == dimensions &&
               region.strides.size() == dimensions);
  Rows result;
  result.data = region.data;
  if (dimensions == 0) return result;
  const int last = dimensions - 1;
  result.columns = region.box.extent[last];
  result.column_stride = region.strides[last];
  result.first_column = region.box.lower[last];
  result.row_length = region.shape[last];
  std::int64_t weight = 1;
  for (int d = last - 1; d >= 0; --d) {
    const int to = d + 3 - last;
    result.extent[to] = region.box.extent[d];
    result.stride[to] = region.strides[d];
    result.row_stride[to] = weight;
    result.first_row += region.box.lower[d] * weight;
    result.rows *= region.box.extent[d];
    weight *= region.shape[d];
  }
  return result;
}

Rows joined(const Rows& rows) {
  Rows result = rows;
  result.first_row = rows.first_row * rows.row_length + rows.first_column;
  result.first_column = 0;
  result.row_length = 1;
  for (std::int64_t& stride : result.row_stride) stride *= rows.row_length;
  for (int d = 2; d >= 0; --d) {
    const bool is_next =
        result.stride[2] == result.columns * result.column_stride && result.row_stride[2] == result.columns;
    if (result.extent[2] != 1 && !is_next) break;
    result.columns *= result.extent[2];
    result.rows /= std::max<std::int64_t>(1, result.extent[2]);
    for (int to = 2; to > 0; --to) {
      result.extent[to] = result.extent[to - 1];
      result.stride[to] = result.stride[to - 1];
      result.row_stride[to] = result.row_stride[to - 1];
    }
    result.extent[0] = 1;
    result.stride[0] = result.row_stride[0] = 0;
  }
  return result;
}

Cut cut(const Rows& rows, std::int64_t columns, std::int64_t elements) {
  if (rows.rows == 0 || rows.columns == 0) return {1, 1, 1, 0};
  Cut result{};
  result.columns_per_item = std::min(columns, rows.columns);
  result.rows_per_item = std::clamp<std::int64_t>(elements / result.columns_per_item, 1, rows.rows);
  result.column_items = ceil_div(rows.columns, result.columns_per_item);
  result.items = result.column_items * ceil_div(rows.rows, result.rows_per_item);
  return result;
}

std::int64_t device_item_elements(std::int64_t elements) {
  constexpr std::int64_t kItems = 2048;
  constexpr std::int64_t kLeast = 8192;
  constexpr std::int64_t kMost = 256 * 1024;
  return std::clamp(elements / kItems, kLeast, kMost) / kLeast * kLeast;
}

bool has_aligned_rows(const Rows& rows, std::int64_t element_bytes) {
  bool result = rows.column_stride == 1 && reinterpret_cast<std::uintptr_t>(rows.data) % kVector == 0;
  for (int d = 0; d < 3; ++d) {
    result = result && (rows.extent[d] == 1 || rows.stride[d] * element_bytes % kVector == 0);
  }
  return result;
}

bool has_vector_rows(const Rows& rows, std::int64_t element_bytes) {
  return has_aligned_rows(rows, element_bytes) && rows.columns * element_bytes % kVector == 0;
}

}  // namespace refit::kernels
