#include "plan/stream.hpp"

#include <algorithm>

#include "core/box.hpp"

namespace refit::plan {
namespace {

/// Appends the boxes of a flat range of the dimensions from `dimension` on; `prefix` fixes those before it.
void append_boxes(const Shape& shape, int dimension, Box prefix, std::int64_t begin, std::int64_t count,
                  std::vector<Box>& out) {
  if (count == 0) return;
  std::int64_t inner = 1;
  for (int d = dimension + 1; d < shape.size(); ++d) inner *= shape[d];
  const auto emit = [&](std::int64_t first, std::int64_t rows) {
    Box box = prefix;
    box.lower[dimension] = first;
    box.extent[dimension] = rows;
    for (int d = dimension + 1; d < shape.size(); ++d) box.extent[d] = shape[d];
    out.push_back(box);
  };
  const auto descend = [&](std::int64_t row, std::int64_t from, std::int64_t elements) {
    Box box = prefix;
    box.lower[dimension] = row;
    box.extent[dimension] = 1;
    append_boxes(shape, dimension + 1, box, from, elements, out);
  };
  std::int64_t row = begin / inner;
  if (const std::int64_t started = begin % inner; started != 0) {
    const std::int64_t rest = std::min(inner - started, count);
    descend(row++, started, rest);
    count -= rest;
  }
  if (count >= inner) emit(row, count / inner);
  row += count / inner;
  if (count % inner != 0) descend(row, 0, count % inner);
}

}  // namespace

std::vector<Box> boxes_of_flat_range(const Shape& shape, std::int64_t begin, std::int64_t count) {
  std::vector<Box> out;
  if (shape.size() == 0) {
    if (count > 0) out.push_back({});
    return out;
  }
  append_boxes(shape, 0, Box{Extents::filled(shape.size(), 0), Extents::filled(shape.size(), 1)}, begin, count, out);
  return out;
}

StreamLayout::StreamLayout(const std::vector<model::Tensor>& tensors, const layout::Layout& source,
                           std::int64_t buffer_bytes)
    : capacity_(std::max<std::int64_t>(8, buffer_bytes)), source_(source) {
  for (const model::Tensor& tensor : tensors) {
    const DType dtype = source_.format(tensor).value().dtype;
    if (static_cast<std::size_t>(tensor.index) >= parts_.size())
      parts_.resize(static_cast<std::size_t>(tensor.index) + 1);
    auto& parts = parts_[static_cast<std::size_t>(tensor.index)];
    for (std::int64_t done = 0; done < tensor.elements();) {
      const std::int64_t used = fill_.empty() ? capacity_ : round_up(fill_.back(), byte_size(dtype));
      const std::int64_t room = (capacity_ - used) / byte_size(dtype);
      if (room <= 0) {
        fill_.push_back(0);
        continue;
      }
      const std::int64_t count = std::min(room, tensor.elements() - done);
      parts.push_back({buffers() - 1, done, count, used});
      fill_.back() = used + count * byte_size(dtype);
      done += count;
    }
  }
}

std::uint64_t StreamLayout::placement_class(const model::Tensor& tensor) const {
  return static_cast<std::uint64_t>(tensor.index);  // every tensor is cut elsewhere
}

void StreamLayout::pieces(const model::Tensor& tensor, Rank /*rank*/, std::vector<layout::Piece>& out) const {
  const Format format = source_.format(tensor).value();
  const Extents strides = row_major_strides(tensor.shape);
  for (const Part& part : parts_[static_cast<std::size_t>(tensor.index)]) {
    for (const Box& box : boxes_of_flat_range(tensor.shape, part.begin, part.count)) {
      const std::int64_t flat = offset_of(box.lower, strides);
      out.push_back({box,
                     {{part.buffer, -1, -1}, part.offset_bytes / byte_size(format.dtype) + flat - part.begin, strides},
                     format});
    }
  }
}

layout::Storage StreamLayout::storage(const layout::StorageKey& key, Rank /*rank*/) const {
  return {key, fmt::format("misc buffer {}", key.parameter), {bytes(key.parameter)}, DType::u8};
}

}  // namespace refit::plan
