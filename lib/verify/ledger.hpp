#pragma once
// The holders of every box: one side's layout turned around, for the tensors that a rank judges (owners.hpp).
//
// Example: a tensor of 8 rows, replicated on two ranks and cut in halves on each of them: two boxes, each with two
// holders.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/world.hpp"
#include "layout/layout.hpp"

namespace refit::verify {

/// One copy of a box: `piece` counts within the rank's pieces of the ledger's tensors.
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

/// The holders of all boxes of one owner's tensors on one side; 8 bytes per piece. Immutable.
class Ledger {
 public:
  /// Asks `layout` for every rank's pieces of the tensors that are `owned`. `map`: of the world, and `side` the
  /// layout's in it; `first`: the rank of the side that is the layout's rank 0; `before`: the other side's ledger,
  /// whose pieces the world's ranks count first. Errors (usage): a tensor of which this side stores a part only, or
  /// boxes that overlap without being equal; the tensor is named.
  Ledger(const layout::Layout& layout, const std::vector<model::Tensor>& tensors, const WorldMap& map, Side side,
         const std::function<bool(const model::Tensor&)>& owned, const Ledger* before = nullptr,
         std::int32_t first = 0);

  /// Returns the distinct boxes of a tensor, ascending; empty where this side does not store it, or it is not the
  /// owner's.
  std::span<const HeldBox> boxes(std::int32_t tensor) const;
  /// Returns the holders of a box, at least one, in order of rank.
  std::span<const Holder> holders(const HeldBox& box) const;
  /// Returns the number of pieces of each rank of the world, with those that it counted before.
  const std::vector<std::int32_t>& pieces_by_rank() const { return pieces_by_rank_; }

 private:
  std::vector<std::int64_t> first_box_;  ///< by tensor, and one past the last
  std::vector<HeldBox> boxes_;
  std::vector<Holder> holders_;
  std::vector<std::int32_t> pieces_by_rank_;
};

}  // namespace refit::verify
