#include "diagnose/part.hpp"

#include <cstring>

namespace refit::diagnose {

Part read_part(const Dumps& dumps, Rank rank, const layout::Storage& storage, const layout::Piece& piece,
               std::shared_ptr<const Whole> truth) {
  const Shape& shape = truth->tensor->shape;
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer stored =
      dumps.read(rank, storage, piece.place.offset, span_of(piece.box.extent, piece.place.strides));
  Part part;
  part.rows = rows_of(shape, piece.box);
  part.columns = columns_of(shape, piece.box);
  part.truth = std::move(truth);
  part.whole = part.truth->matrix();
  const std::int64_t size = byte_size(storage.dtype);
  part.bytes = kernels::SharedBuffer(piece.box.volume() * size);
  const kernels::Tile tile{
      stored.data(), part.bytes.data(), piece.box.extent, piece.place.strides, row_major_strides(piece.box.extent),
      storage.dtype, storage.dtype};
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
  const auto columns = std::ssize(part.columns);
  part.found = {part.bytes.data(), size, std::ssize(part.rows), columns, columns, 1};
  return part;
}

std::int64_t count_wrong(const Part& part) {
  if (part.elements() == 0) return 0;
  const std::int64_t columns = part.found.columns;
  const bool gapless = part.columns.back() - part.columns.front() == columns - 1;
  const auto row_bytes = static_cast<std::size_t>(columns * part.found.element_bytes);
  std::int64_t wrong = 0;
  for (std::int64_t row = 0; row < part.found.rows; ++row) {
    const std::int64_t right = part.rows[static_cast<std::size_t>(row)] * part.whole.row_stride + part.columns.front();
    const std::byte* found = part.found.data + row * columns * part.found.element_bytes;
    if (gapless && std::memcmp(found, part.whole.data + right * part.whole.element_bytes, row_bytes) == 0) continue;
    for (std::int64_t column = 0; column < columns; ++column)
      wrong += part.found(row, column) != part.expected(row, column) ? 1 : 0;
  }
  return wrong;
}

}  // namespace refit::diagnose
