#include "plan/placement.hpp"

#include <algorithm>
#include <utility>

namespace refit::plan {

Placement apart(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device,
                std::int64_t devices_per_domain) {
  Placement placement;
  Placement::Site first;  // of a side
  for (auto [sites, ranks] :
       {std::pair(&placement.source, source_ranks), {&placement.destination, destination_ranks}}) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const auto device = static_cast<std::int32_t>(rank / ranks_per_device);
      sites->push_back({first.device + device, first.domain + device / static_cast<std::int32_t>(devices_per_domain)});
    }
    first = {sites->back().device + 1, sites->back().domain + 1};
  }
  return placement;
}

Placement filled(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device,
                 std::int64_t devices_per_domain) {
  Placement placement;
  for (std::int64_t rank = 0; rank < source_ranks + destination_ranks; ++rank) {
    const auto device = static_cast<std::int32_t>(rank / ranks_per_device);
    (rank < source_ranks ? placement.source : placement.destination)
        .push_back({device, device / static_cast<std::int32_t>(devices_per_domain)});
  }
  return placement;
}

Placement colocated(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device,
                    std::int64_t devices_per_domain) {
  Placement all = filled(std::max(source_ranks, destination_ranks), 0, ranks_per_device, devices_per_domain);
  const auto first = [&](std::int64_t ranks) {
    return std::vector<Placement::Site>(all.source.begin(), all.source.begin() + ranks);
  };
  return {first(source_ranks), first(destination_ranks)};
}

Placement listed(const WorldMap& map, std::span<const std::int64_t> devices, std::int64_t devices_per_domain) {
  Placement placement;
  for (std::int32_t rank = 0; rank < map.size(); ++rank) {
    const std::int64_t device = devices[static_cast<std::size_t>(rank)];
    const Placement::Site site{static_cast<std::int32_t>(device),
                               static_cast<std::int32_t>(device / devices_per_domain)};
    const OwnRanks own = map.own(rank);
    if (own.source) placement.source.push_back(site);
    if (own.destination) placement.destination.push_back(site);
  }
  return placement;
}

}  // namespace refit::plan
