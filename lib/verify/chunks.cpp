#include "verify/chunks.hpp"

#include <algorithm>

namespace refit::verify {
namespace {

/// Appends `box`, cut along dimension `d` where it is too large. The dimensions before `d` are then down to one index.
void cut(const Box& box, int d, std::int64_t max_elements, std::vector<Box>& out) {
  const std::int64_t one = box.volume() / box.extent[d];
  const std::int64_t step =
      box.volume() <= max_elements ? box.extent[d] : std::max<std::int64_t>(1, max_elements / one);
  for (std::int64_t at = 0; at < box.extent[d]; at += step) {
    Box part = box;
    part.lower[d] += at;
    part.extent[d] = std::min(step, box.extent[d] - at);
    out.push_back(part);
  }
}

}  // namespace

std::vector<Box> chunks(const Box& box, std::int64_t max_elements) {
  REFIT_ASSERT(max_elements > 0);
  if (box.empty()) return {};
  std::vector<Box> parts{box};
  for (int d = 0; d < box.extent.size(); ++d) {
    std::vector<Box> smaller;
    for (const Box& part : parts) cut(part, d, max_elements, smaller);
    parts = std::move(smaller);
  }
  return parts;
}

std::vector<Box> slices(const Box& box, int d) {
  std::vector<Box> parts;
  for (std::int64_t i = 0; i < box.extent[d]; ++i) {
    Box& part = parts.emplace_back(box);
    part.lower[d] += i;
    part.extent[d] = 1;
  }
  return parts;
}

}  // namespace refit::verify
