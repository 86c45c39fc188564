#pragma once
// The block scales of a weight as a grid of blocks, and their places on a rank.

#include "core/quantiser.hpp"
#include "layout/layout.hpp"

namespace refit::transport {

/// A grid with the dimensions of the weight, of blocks as small as an engine keeps scales for. Example: scales of
/// [256, 256] that are repeated 2 x 2 times are a grid of [4, 4] blocks of 64 x 64; rows 64 .. 191 and columns
/// 0 .. 255 touch [1:3, 0:4].
class ScaleGrid {
 public:
  /// Keeps a reference to `scales`, the tensor of the block scales.
  ScaleGrid(const model::Tensor& scales, Quantiser quantiser);

  std::int64_t repeats() const { return scales_.repeats; }
  /// Returns the blocks that a box of the weight touches.
  Box touched(const Box& box) const { return touched_blocks(box, block_); }
  /// Returns the place of the scales of touched(box) on `rank`: the place of the first, one stride for each dimension
  /// of the grid.
  layout::Place place(const layout::Layout& layout, Rank rank, const Box& box) const;

 private:
  const model::Tensor& scales_;
  BlockSize block_;
};

}  // namespace refit::transport
