#include "kernels/walk.hpp"

#include <algorithm>

namespace refit::kernels {

Rows rows_of(const Region& region) {
  const int dimensions = region.shape.size();
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

Cut cut(const Rows& rows, std::int64_t columns, std::int64_t elements) {
  if (rows.rows == 0 || rows.columns == 0) return {1, 1, 1, 0};
  Cut result{};
  result.columns_per_item = std::min(columns, rows.columns);
  result.rows_per_item = std::clamp<std::int64_t>(elements / result.columns_per_item, 1, rows.rows);
  result.column_items = (rows.columns + result.columns_per_item - 1) / result.columns_per_item;
  result.items = result.column_items * ((rows.rows + result.rows_per_item - 1) / result.rows_per_item);
  return result;
}

}  // namespace refit::kernels
