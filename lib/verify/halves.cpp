#include "verify/halves.hpp"

namespace refit::verify {
namespace {

Extents without_last(const Extents& extents) {
  Extents result;
  for (int d = 0; d + 1 < extents.size(); ++d) result.push_back(extents[d]);
  return result;
}

}  // namespace

std::vector<Half> halves(const kernels::Region& region) {
  const int last = region.shape.size() - 1;
  if (last < 2 || region.shape[last] != 2) return {{region, 0}};
  std::vector<Half> result;
  for (std::int64_t i = 0; i < region.box.extent[last]; ++i) {
    kernels::Region half = region;
    half.data += i * region.strides[last] * byte_size(region.dtype);
    half.box = {without_last(region.box.lower), without_last(region.box.extent)};
    half.shape = without_last(region.shape);
    half.strides = without_last(region.strides);
    result.push_back({half, static_cast<std::uint64_t>(region.box.lower[last] + i)});
  }
  return result;
}

}  // namespace refit::verify
