#pragma once
// The misc stream as a layout: all tensors, whole and row-major, laid end to end in one sequence of bytes and cut every
// `buffer_bytes` (between elements), so that a tensor may span buffers. One rank holds it. A buffer is a storage; a
// part of a tensor in a buffer is a few boxes (a started row, whole rows, a begun row, in two levels for 3-D
// tensors).

#include <vector>

#include "layout/layout.hpp"

namespace refit::plan {

/// Returns elements [begin, begin + count) of a row-major tensor, as disjoint boxes in ascending order.
std::vector<Box> boxes_of_flat_range(const Shape& shape, std::int64_t begin, std::int64_t count);

/// The layout of the stream over buffers 0 .. buffers() - 1 on rank 0. Storage key: {buffer}. Tensors are stored as
/// `source` stores them, so that nothing is rounded on the way.
class StreamLayout final : public layout::Layout {
 public:
  /// `source` stores all `tensors`, and must outlive it. Buffers hold at least one element of every dtype (8 bytes).
  StreamLayout(const std::vector<model::Tensor>& tensors, const layout::Layout& source, std::int64_t buffer_bytes);

  std::int32_t buffers() const { return static_cast<std::int32_t>(fill_.size()); }
  /// Returns the bytes used of one buffer.
  std::int64_t bytes(std::int32_t buffer) const { return fill_[static_cast<std::size_t>(buffer)]; }
  std::int64_t capacity() const { return capacity_; }

  std::int32_t ranks() const override { return 1; }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::optional<Format> format(const model::Tensor& tensor) const override { return source_.format(tensor); }
  std::uint64_t placement_class(const model::Tensor& tensor) const override;
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override;
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override;
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank) const override { return "stream"; }

 private:
  /// A flat range of a tensor in a buffer.
  struct Part {
    std::int32_t buffer;
    std::int64_t begin, count;  ///< elements of the tensor
    std::int64_t offset_bytes;  ///< in the buffer
  };
  std::int64_t capacity_;
  const layout::Layout& source_;
  std::vector<std::int64_t> fill_;
  std::vector<std::vector<Part>> parts_;  ///< by tensor index
};

}  // namespace refit::plan
