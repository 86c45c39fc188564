#pragma once
// Cuts a box into parts of bounded size, in row-major order, in which all streaming here walks over a tensor.

#include <algorithm>
#include <cstdint>

#include "core/box.hpp"

namespace refit::checkpoint {

inline constexpr std::int64_t kBufferBytes = std::int64_t{8} << 20;

/// Calls `visit(part)` for parts of at most `max_elements` (> 0), each contiguous in the box's row-major order.
template <typename Visit>
void for_each_chunk(const Box& box, std::int64_t max_elements, const Visit& visit) {
  if (box.empty()) return;
  if (box.volume() <= max_elements) return visit(box);
  int d = 0;
  while (box.extent[d] == 1) ++d;
  const std::int64_t slice = box.volume() / box.extent[d];
  const std::int64_t step = std::max<std::int64_t>(1, max_elements / slice);
  for (std::int64_t first = 0; first < box.extent[d]; first += step) {
    Box part = box;
    part.lower[d] += first;
    part.extent[d] = std::min(step, box.extent[d] - first);
    for_each_chunk(part, max_elements, visit);
  }
}

}  // namespace refit::checkpoint
