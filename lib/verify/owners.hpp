#pragma once
// Which rank judges which tensor: all ranks share the work and the memory of it, so that nothing grows with the world
// at any of them.
//
// An owner has the ledgers of its own tensors and gets their fingerprints from all ranks. Between a rank and an owner a
// piece goes by its number among that rank's pieces of that owner's tensors, in order of tensor: both count alike.

#include <cstdint>
#include <vector>

#include "layout/layout.hpp"

namespace refit::verify {

/// The world rank that judges a tensor. Scales go where their weight goes, whose values are wrong where they are.
std::int32_t owner_of(const model::Tensor& tensor, std::int32_t world_size);

/// A rank's own pieces as owners know them.
struct Numbered {
  std::vector<std::vector<std::int32_t>> by_owner;  ///< number -> index in LocalLayout::pieces
  std::vector<std::int32_t> numbers;                ///< index in LocalLayout::pieces -> number

  Numbered(const layout::LocalLayout& layout, const std::vector<model::Tensor>& tensors, std::int32_t world_size);
};

}  // namespace refit::verify
