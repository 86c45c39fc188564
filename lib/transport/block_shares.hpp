#pragma once
// Blocks that straddle the shards of a layout: what ranks that have parts of one tell each other, so that each knows
// the largest magnitude of the whole block. It follows from the layout alone, so no rank asks another.
//
// Example: a weight [256, 256] in blocks of 128 x 128, rows 0 .. 191 on rank 0 and the others on rank 1. Both have
// parts of blocks (1, 0) and (1, 1): each sends the other its own maxima of these two.

#include <vector>

#include "core/quantiser.hpp"
#include "layout/layout.hpp"

namespace refit::transport {

/// A block of a weight: the matrix's index, and row and column in its grid of blocks. Row -1: the matrix's last
/// element, with which some quantisers pad.
struct BlockKey {
  std::int64_t matrix, row, column;
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
};

/// What this rank sends to `peer` of a weight, or receives from it.
struct BlockShare {
  std::int32_t tensor = 0;
  std::int32_t peer = 0;  ///< rank of the layout; this rank itself, of two of its boxes
  bool sends = false;
  Box box;  ///< this rank's: the one that has the parts (sends), or the one whose blocks want them (receives)
  std::vector<BlockKey> blocks;
};

/// True where the box has the last element of matrices with ragged blocks, and not all of them: others may want it.
bool has_wanted_last(const model::Tensor& weight, const Box& box, Quantiser quantiser);

/// The shares of `rank` in the weights of `model` that have scales. Those between two ranks stand in the same order at
/// both. Of each box that has parts of a rank's blocks one holder sends them, and holders take turns: a rank has as
/// many partners as its blocks have other parts, however many replicas there are. Cost: this rank's own pieces; and for
/// each class of weights of which it shares blocks, one look at all ranks, as a plan.
std::vector<BlockShare> block_shares(const model::Model& model, const layout::Layout& layout, Quantiser quantiser,
                                     Rank rank);

}  // namespace refit::transport
