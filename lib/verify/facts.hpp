#pragma once
// Facts that follow from the two layouts alone: every rank works them out by itself.

#include <cstdint>
#include <vector>

#include "layout/layout.hpp"

namespace refit::verify {

/// The facts, the same on all ranks.
struct Facts {
  std::vector<Format> compared_as;  ///< by tensor: as gen stores it; as train does, or the file, where gen does not
  /// Tensors that have a KL: two or more dimensions, stored by both sides as numbers or as a quantised weight's parts.
  /// The parts themselves have none.
  std::vector<std::int32_t> measured;
};

/// Works out the facts. `originals`: train's layout of quantised weights before they are quantised; or null.
Facts facts_of(const model::Model& model, const layout::Layout& train, const layout::Layout& gen,
               const layout::Layout* originals);

/// Returns the part that has a weight's elements in place of the weight itself, where its format packs them; or -1.
std::int32_t packed_values_of(const std::vector<model::Tensor>& tensors, const model::Tensor& weight);

/// Returns whether a weight's scales are those of blocks of FP8 or MXFP8, which kernels::BlockScales describes.
bool has_block_scales(const std::vector<model::Tensor>& tensors, const model::Tensor& weight);

}  // namespace refit::verify
