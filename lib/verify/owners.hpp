#pragma once
// The ranks that judge tensors: all ranks share the work and the memory for it, so that nothing grows with the world on
// any of them.
//
// An owner has the ledgers of its own tensors and gets their fingerprints from all ranks. A rank and an owner name a
// piece by its number among that rank's pieces of that owner's tensors, train's in order of tensor, then gen's: both
// count alike.

#include <cstdint>
#include <vector>

#include "verify/rank_view.hpp"

namespace refit::verify {

/// Returns the world rank that judges a tensor. Scales go to their weight's owner, since the weight's values are wrong
/// where the scales are.
std::int32_t owner_of(const model::Tensor& tensor, std::int32_t world_size);

/// A rank's own pieces by the numbers that owners use.
struct Numbered {
  std::vector<std::vector<std::int32_t>> by_owner;  ///< number -> index in LocalLayout::pieces
  std::vector<std::int32_t> numbers;                ///< index in LocalLayout::pieces -> number

  Numbered(const OwnView& view, const std::vector<model::Tensor>& tensors, std::int32_t world_size);
};

}  // namespace refit::verify
