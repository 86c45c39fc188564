#pragma once
// NaN and infinities: equal bits are right, whatever they are, but a reader must know of these.

#include <vector>

#include "verify/probe.hpp"

namespace refit::verify {

/// Counts NaN and infinities in the memory that `summands` reads, on the ranks of `group`, in the pieces that
/// contribute. A tied tensor counts under its canonical name. Collective over the world; the list, ascending, is
/// returned at world rank 0.
std::vector<NotFinite> count_not_finite(const Summands& summands, Group group);

}  // namespace refit::verify
