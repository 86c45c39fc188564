#include "session/parts.hpp"

#include <algorithm>
#include <iterator>
#include <set>

namespace refit::session {

std::vector<plan::Copy> Part::of(const std::vector<plan::Copy>& copies) const {
  std::set<std::int32_t> mine;
  for (const model::Tensor& tensor : tensors) mine.insert(tensor.index);
  std::vector<plan::Copy> result;
  std::ranges::copy_if(copies, std::back_inserter(result),
                       [&](const plan::Copy& copy) { return mine.contains(copy.tensor); });
  return result;
}

std::vector<Part> make_parts(const Exchange& exchange, Commit commit, const Staged* staged) {
  const std::vector<model::Tensor>& bulk = exchange.paths.bulk;
  if (commit == Commit::in_place) return {{"", false, bulk}};
  std::vector<Part> parts;
  if (commit == Commit::layers) {
    const Units units(exchange.model);
    for (std::size_t unit = 0; unit < units.size(); ++unit) {
      Part part{units.name(unit), false, {}};
      std::ranges::copy_if(bulk, std::back_inserter(part.tensors),
                           [&](const model::Tensor& tensor) { return units.of(tensor) == unit; });
      if (!part.tensors.empty()) parts.push_back(std::move(part));
    }
    if (parts.empty()) parts.push_back({"", false, {}});
    return parts;
  }
  parts = {{"", false, {}}};
  if (!staged->is_whole()) parts.push_back({"", true, {}});
  for (const model::Tensor& tensor : bulk) parts[staged->has(tensor) ? 0 : 1].tensors.push_back(tensor);
  return parts;
}

}  // namespace refit::session
