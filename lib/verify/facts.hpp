#pragma once
// What follows from the two layouts alone: every rank works it out by itself.

#include <cstdint>
#include <vector>

#include "layout/layout.hpp"

namespace refit::verify {

/// The same on all ranks.
struct Facts {
  std::vector<Format> compared_as;  ///< by tensor: as gen stores it; as train does, or the file, where gen does not
  /// Tensors that have a KL: two or more dimensions, stored by both sides as numbers or as bytes with scales. The
  /// scales themselves have none.
  std::vector<std::int32_t> measured;
};

/// `originals`, or null: what train has of quantised weights before they are quantised.
Facts facts_of(const std::vector<model::Tensor>& tensors, const layout::Layout& train, const layout::Layout& gen,
               const layout::Layout* originals);

}  // namespace refit::verify
