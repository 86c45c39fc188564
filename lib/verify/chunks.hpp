#pragma once
// A box cut into bounded parts, so that a wrong tensor can be sent and compared with little memory.

#include <vector>

#include "core/box.hpp"

namespace refit::verify {

/// Returns disjoint boxes of at most `max_elements` elements that cover `box`, in ascending order: whole rows where a
/// row fits. Example: [0:4, 0:3] with 6 elements at most gives [0:2, 0:3] and [2:4, 0:3].
std::vector<Box> chunks(const Box& box, std::int64_t max_elements);

/// Returns the box cut at every index of dimension `d`, in ascending order.
std::vector<Box> slices(const Box& box, int d);

}  // namespace refit::verify
