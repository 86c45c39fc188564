#include "core/box.hpp"

#include <fmt/ranges.h>

namespace refit {

std::string to_string(const Extents& extents) {
  return fmt::format("[{}]", fmt::join(extents.begin(), extents.end(), ", "));
}

std::string to_string(const Box& box) {
  std::string text = "[";
  for (int d = 0; d < box.lower.size(); ++d) {
    if (d > 0) text += ", ";
    text += fmt::format("{}:{}", box.lower[d], box.lower[d] + box.extent[d]);
  }
  return text + "]";
}

}  // namespace refit
