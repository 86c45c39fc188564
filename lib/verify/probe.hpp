#pragma once
// The KL proxy of the whole model: row sums of every matrix, added up over one holder per distinct box.

#include <cstdint>
#include <vector>

#include "verify/local_memory.hpp"
#include "verify/result.hpp"

namespace refit::verify {

/// Memory of this rank, and its pieces that are added up: those of one holder per distinct box and side.
struct Summands {
  const LocalMemory& memory;
  const std::vector<std::uint8_t>& contributes;  ///< by piece
};

/// Measures the tensors `measured` (ascending; those of Facts). Every matrix counts for itself: the last two dimensions
/// are a matrix. Quantised weights count with the values of all their parts, and as `originals` (of a train rank; or
/// null) where there are such. Errors (usage): a rank that stores a quantised weight without all its scales.
/// Collective over the world; the summary is returned at world rank 0.
KlSummary measure_kl(const Summands& local, const Summands* originals, const std::vector<std::int32_t>& measured,
                     std::uint64_t seed);

}  // namespace refit::verify
