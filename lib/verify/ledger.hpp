#pragma once
// Who holds which box: one side's layout turned around, for the judge at world rank 0.
//
// Example: a tensor of 8 rows, replicated on two ranks and cut in halves on each of them: two boxes, each with two
// holders.

#include <cstdint>
#include <span>
#include <vector>

#include "layout/layout.hpp"

namespace refit::verify {

/// One copy of a box: `piece` counts within the rank's LocalLayout::pieces.
struct Holder {
  std::int32_t world_rank = 0;
  std::int32_t piece = 0;
};

/// A distinct box of a tensor on one side.
struct HeldBox {
  Box box;
  Format format;           ///< of its first holder's storage
  std::int64_t first = 0;  ///< its holders, in the ledger's list
  std::int64_t count = 0;
};

/// The holders of all boxes of all tensors on one side; 8 bytes per piece of the whole side. Immutable.
class Ledger {
 public:
  /// Asks `layout` for every piece of every rank. Rank 0 of the side is `first_world_rank`. Errors (usage): a
  /// tensor of which this side stores a part only, or boxes that overlap without being equal; the tensor is named.
  Ledger(const layout::Layout& layout, const std::vector<model::Tensor>& tensors, std::int32_t first_world_rank);

  /// The distinct boxes of a tensor, ascending; empty where this side does not store it.
  std::span<const HeldBox> boxes(std::int32_t tensor) const;
  /// At least one, in order of rank.
  std::span<const Holder> holders(const HeldBox& box) const;
  /// How many pieces each rank of the side has.
  const std::vector<std::int32_t>& pieces_by_rank() const { return pieces_by_rank_; }

 private:
  std::vector<std::int64_t> first_box_;  ///< by tensor, and one past the last
  std::vector<HeldBox> boxes_;
  std::vector<Holder> holders_;
  std::vector<std::int32_t> pieces_by_rank_;
};

}  // namespace refit::verify
