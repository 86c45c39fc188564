#include "layout/partition.hpp"

#include <algorithm>

#include "core/box.hpp"

namespace refit::layout {

Range even_part(std::int64_t size, std::int64_t parts, std::int64_t index) {
  REFIT_ASSERT(parts > 0 && size % parts == 0 && index >= 0 && index < parts);
  const std::int64_t count = size / parts;
  return {index * count, count};
}

Range chunk_part(std::int64_t size, std::int64_t parts, std::int64_t index) {
  REFIT_ASSERT(parts > 0 && index >= 0 && index < parts);
  const std::int64_t chunk = ceil_div(size, parts);
  const std::int64_t begin = std::min(size, index * chunk);
  return {begin, std::min(chunk, size - begin)};
}

Range balanced_part(std::int64_t size, std::int64_t parts, std::int64_t index) {
  REFIT_ASSERT(parts > 0 && index >= 0 && index < parts);
  const std::int64_t base = size / parts;
  const std::int64_t extra = size % parts;
  return {index * base + std::min(index, extra), base + (index < extra ? 1 : 0)};
}

std::int64_t balanced_owner(std::int64_t size, std::int64_t parts, std::int64_t element) {
  REFIT_ASSERT(element >= 0 && element < size);
  const std::int64_t base = size / parts;
  const std::int64_t in_larger_parts = size % parts * (base + 1);
  if (element < in_larger_parts) return element / (base + 1);
  return size % parts + (element - in_larger_parts) / base;
}

Range clip(const Range& part, std::int64_t limit) {
  return {part.begin, std::clamp<std::int64_t>(limit - part.begin, 0, part.count)};
}

}  // namespace refit::layout
