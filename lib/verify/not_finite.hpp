#pragma once
// NaN and infinities: equal bits are right, whatever they are, but a reader must know of them.

#include <vector>

#include "verify/probe.hpp"

namespace refit::verify {

/// Those of the memory that `summands` looks at, on the ranks of `group`, in the pieces that contribute. A tied tensor
/// counts under its canonical name. Collective over the world; the list, ascending, is returned at world rank 0.
std::vector<NotFinite> count_not_finite(const Summands& summands, Group group);

}  // namespace refit::verify
