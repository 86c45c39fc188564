#pragma once
// The three ways in which a rank stores a tensor's part in a row-major storage; every engine's rules are made of them.

#include <vector>

#include "layout/layout.hpp"
#include "layout/partition.hpp"

namespace refit::layout {

/// The whole tensor, a storage of its own.
void append_whole(const Tensor& tensor, const StorageKey& key, DType dtype, std::vector<Piece>& out);

/// Rows (first index) `rows`, at row `local_row` of a storage with equally long rows.
void append_rows(const Tensor& tensor, const Range& rows, const StorageKey& key, std::int64_t local_row, DType dtype,
                 std::vector<Piece>& out);

/// Columns `columns` of a matrix, a storage of its own.
void append_columns(const Tensor& tensor, const Range& columns, const StorageKey& key, DType dtype,
                    std::vector<Piece>& out);

/// A tensor without any rule: whole on every rank under its Hugging Face name, in its own dtype. `parameter` is the
/// engine's number for such storages; the key's layer is the tensor's index.
void append_by_name(const Tensor& tensor, std::int32_t parameter, std::vector<Piece>& out);
Storage storage_by_name(const model::Model& model, const StorageKey& key);

}  // namespace refit::layout
