#include "verify/chunks.hpp"

#include <algorithm>

namespace refit::verify {
namespace {

/// Cuts along dimension `d`; the dimensions before it are already down to one index.
void cut(const Box& box, int d, std::int64_t max_elements, std::vector<Box>& out) {
  if (box.volume() <= max_elements) {
    out.push_back(box);
    return;
  }
  const std::int64_t one = box.volume() / box.extent[d];
  const std::int64_t step = std::max<std::int64_t>(1, max_elements / one);
  for (std::int64_t at = 0; at < box.extent[d]; at += step) {
    Box part = box;
    part.lower[d] += at;
    part.extent[d] = std::min(step, box.extent[d] - at);
    cut(part, d + 1, max_elements, out);
  }
}

}  // namespace

std::vector<Box> chunks(const Box& box, std::int64_t max_elements) {
  REFIT_ASSERT(max_elements > 0);
  std::vector<Box> out;
  if (!box.empty()) cut(box, 0, max_elements, out);
  return out;
}

}  // namespace refit::verify
