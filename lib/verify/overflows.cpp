#include "verify/overflows.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace refit::verify {

std::vector<Overflow> count_overflows(const Summands& summands) {
  const LocalMemory& local = summands.memory;
  std::vector<Overflow> mine;
  const auto& pieces = local.view.layout().pieces;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const model::Tensor& tensor = local.tensor(pieces[i].tensor);
    if (local.view.group(pieces[i].storage) != Group::train || summands.contributes[i] == 0 ||
        local.model.canonical(tensor).index != tensor.index || pieces[i].piece.format == local.as(tensor.index))
      continue;
    const kernels::Region region = local.region(static_cast<std::int32_t>(i), pieces[i].piece.box);
    const kernels::Difference found =
        kernels::count_overflows(local.space, region, local.as(tensor.index).dtype, local.transform_of(pieces[i]));
    if (found.count == 0) continue;
    const std::int64_t first = offset_of(unravel(found.first, region.box), row_major_strides(tensor.shape));
    mine.push_back({tensor.index, found.count, first});
  }
  return gather_overflows(mine, local.world);
}

std::vector<Overflow> gather_overflows(const std::vector<Overflow>& mine, transport::Control& world) {
  Writer out;
  out.put_all(std::span<const Overflow>(mine));
  std::vector<Overflow> all;
  for (const Bytes& bytes : world.gather(out.take(), 0)) {
    const auto part = Reader(bytes).get_all<Overflow>();
    all.insert(all.end(), part.begin(), part.end());
  }
  return join_overflows(all);
}

std::vector<Overflow> join_overflows(const std::vector<Overflow>& parts) {
  std::map<std::pair<std::int32_t, std::int64_t>, std::int64_t> elements;  // by tensor and first element
  for (const Overflow& part : parts) {
    std::int64_t& most = elements[{part.tensor, part.first_index}];
    most = std::max(most, part.elements);
  }
  std::vector<Overflow> list;
  for (const auto& [place, count] : elements) {
    if (list.empty() || list.back().tensor != place.first) list.push_back({place.first, 0, place.second});
    list.back().elements += count;
  }
  return list;
}

}  // namespace refit::verify
