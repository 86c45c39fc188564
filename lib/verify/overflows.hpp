#pragma once
// Overflow: finite values that a cast makes infinite, most of all bf16 beyond 65504 that becomes fp16. Both sides agree
// on the bits, so that nothing is wrong, but a reader must know of it.

#include <vector>

#include "verify/probe.hpp"
#include "verify/result.hpp"

namespace refit::verify {

/// Counts the finite values in train's memory that gen's dtypes do not reach, in the pieces that contribute. Weights
/// that gen quantises have none: their scales reach all values. A tied tensor counts under its canonical name.
/// Collective over the world; the list, ascending, is returned at world rank 0.
std::vector<Overflow> count_overflows(const Summands& summands);

/// Returns the overflows of all ranks' parts of tensors as one list, ascending, at world rank 0. Collective over the
/// world.
std::vector<Overflow> gather_overflows(const std::vector<Overflow>& mine, transport::Control& world);

/// Returns the overflows of parts of tensors as one list, ascending. A part is known by its first element: replicas of
/// it, of ranks or of engines, count once.
std::vector<Overflow> join_overflows(const std::vector<Overflow>& parts);

}  // namespace refit::verify
