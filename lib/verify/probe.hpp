#pragma once
// The KL proxy of the whole model: row sums of every matrix, added up over one holder per distinct box.

#include <cstdint>
#include <vector>

#include "verify/local_memory.hpp"
#include "verify/result.hpp"

namespace refit::verify {

/// Row sums of train and gen that are reduced at once, at most (a single tensor may exceed it).
inline constexpr std::int64_t kProbeBatchBytes = 64 * 1024 * 1024;

/// Measures the tensors `measured` (ascending; two or more dimensions, stored by both sides, castable). Every matrix
/// counts for itself: the last two dimensions are a matrix. `contributes[piece]` says which pieces of this rank are
/// added up: those of one holder per distinct box and side. Collective over the world; the summary is returned at world
/// rank 0.
KlSummary measure_kl(const LocalMemory& local, const std::vector<std::int32_t>& measured,
                     const std::vector<std::uint8_t>& contributes, std::uint64_t seed);

}  // namespace refit::verify
