#pragma once
// Blocks that straddle the shards of a layout: the messages between ranks that have parts of one block, so that each
// knows the largest magnitude of the whole block. They follow from the layout alone, so no rank asks another.
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

/// The blocks of a weight whose maxima this rank sends to `peer`, or receives from it.
struct BlockShare {
  std::int32_t tensor = 0;
  std::int32_t peer = 0;  ///< rank of the layout; this rank itself between two of its boxes
  bool sends = false;
  Box box;  ///< this rank's: the one that has the parts (sends), or the one whose blocks want them (receives)
  std::vector<BlockKey> blocks;
};

/// Returns true where the box has the last element of matrices with ragged blocks, and not all of them: others may want
/// it.
bool has_wanted_last(const model::Tensor& weight, const Box& box, Quantiser quantiser);

/// Returns the shares of `rank` in the weights of `model` that have scales. The shares of two ranks with each other are
/// in the same order on both. For each box that has parts of a rank's blocks one holder sends them, and holders take
/// turns: a rank has as many partners as its blocks have other parts, however many replicas there are. Cost: this
/// rank's own pieces; and for each class of weights with shared blocks, one look at all ranks, as a plan.
std::vector<BlockShare> block_shares(const model::Model& model, const layout::Layout& layout, Quantiser quantiser,
                                     Rank rank);

}  // namespace refit::transport
