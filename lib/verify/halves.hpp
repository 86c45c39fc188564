#pragma once
// Interleaved experts, [E, H, I, 2] and their biases, [E, I, 2]: rows of two elements would be slow, so each half is
// worked on without the last dimension.

#include <vector>

#include "kernels/kernels.hpp"

namespace refit::verify {

/// A region without its innermost dimension, and the index of that dimension.
struct Half {
  kernels::Region region;
  std::uint64_t number = 0;
};

/// Returns the region itself, or, for a tensor with three or more dimensions of which the innermost is two, its halves
/// as far as its box has them.
std::vector<Half> halves(const kernels::Region& region);

}  // namespace refit::verify
