#include "layout/pieces.hpp"

namespace refit::layout {

void append_whole(const Tensor& tensor, const StorageKey& key, DType dtype, std::vector<Piece>& out) {
  out.push_back({Box::whole(tensor.shape), {key, 0, row_major_strides(tensor.shape)}, dtype});
}

void append_rows(const Tensor& tensor, const Range& rows, const StorageKey& key, std::int64_t local_row, DType dtype,
                 std::vector<Piece>& out) {
  Box box = Box::whole(tensor.shape);
  box.lower[0] = rows.begin;
  box.extent[0] = rows.count;
  const Extents strides = row_major_strides(tensor.shape);
  out.push_back({box, {key, local_row * strides[0], strides}, dtype});
}

void append_columns(const Tensor& tensor, const Range& columns, const StorageKey& key, DType dtype,
                    std::vector<Piece>& out) {
  out.push_back({{{0, columns.begin}, {tensor.shape[0], columns.count}}, {key, 0, {columns.count, 1}}, dtype});
}

void append_by_name(const Tensor& tensor, std::int32_t parameter, std::vector<Piece>& out) {
  append_whole(tensor, {parameter, tensor.index, -1}, tensor.dtype, out);
}

Storage storage_by_name(const model::Model& model, const StorageKey& key) {
  const Tensor& tensor = model.tensors[static_cast<std::size_t>(key.layer)];
  return {key, tensor.name, tensor.shape, tensor.dtype};
}

}  // namespace refit::layout
