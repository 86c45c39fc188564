#pragma once
// What follows from the two layouts alone, worked out once by world rank 0 from the ledgers of both sides.

#include <cstdint>
#include <span>
#include <vector>

#include "verify/ledger.hpp"

namespace refit::verify {

/// The same on all ranks.
struct Facts {
  std::vector<Format> compared_as;  ///< by tensor: as gen stores it; as train does, or the file, where gen does not
  /// Tensors that have a KL: two or more dimensions, stored by both sides as numbers or as bytes with scales. The
  /// scales themselves have none.
  std::vector<std::int32_t> measured;
};

/// `originals`, or null: what train has of quantised weights before they are quantised.
Facts facts_of(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen,
               const Ledger* originals);

/// By world rank: its pieces that are the first holder of their box on one of `sides`, of the tensors `measured`.
std::vector<std::vector<std::int32_t>> first_holders(const std::vector<std::int32_t>& measured,
                                                     std::span<const Ledger* const> sides, std::int32_t world_size);

}  // namespace refit::verify
