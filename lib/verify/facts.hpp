#pragma once
// What follows from the two layouts alone, worked out once by world rank 0 from the ledgers of both sides.

#include <cstdint>
#include <vector>

#include "verify/ledger.hpp"

namespace refit::verify {

/// The same on all ranks.
struct Facts {
  std::vector<Format> compared_as;  ///< by tensor: as gen stores it; as train does, or the file, where gen does not
  std::vector<std::int32_t>
      measured;  ///< tensors that have a KL: stored by both sides, castable, two or more dimensions
};

Facts facts_of(const std::vector<model::Tensor>& tensors, const Ledger& train, const Ledger& gen);

/// By world rank: its pieces that are the first holder of their box, of the tensors `measured`.
std::vector<std::vector<std::int32_t>> first_holders(const std::vector<std::int32_t>& measured, const Ledger& train,
                                                     const Ledger& gen, std::int32_t world_size);

}  // namespace refit::verify
