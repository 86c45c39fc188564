#pragma once
// The devices and domains on which the ranks of both sides are.
//
// Example: four ranks on GPUs 0 1 0 1 of one node, train's first: train ranks 0 and 1 are on devices 0 and 1, and so
// are gen ranks 0 and 1; all are in domain 0.

#include <cstdint>
#include <span>
#include <vector>

#include "core/world.hpp"

namespace refit::plan {

/// Places of the ranks: equal numbers are the same device, or the same domain.
struct Placement {
  struct Site {
    std::int32_t device = 0;
    std::int32_t domain = 0;
  };
  using Number = std::int32_t Site::*;
  std::vector<Site> source, destination;  ///< by rank
};

/// Places both sides apart: neighbouring ranks share a device, and neighbouring devices of a side a domain.
Placement apart(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device = 1,
                std::int64_t devices_per_domain = 1);

/// Places both sides one after the other, source ranks first, as launchers fill hosts: neighbouring ranks of either
/// side share a device, and neighbouring devices a domain.
Placement filled(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device,
                 std::int64_t devices_per_domain);

/// Places rank r of either side on one device: neighbouring ranks share a device, and neighbouring devices a domain.
Placement colocated(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device = 1,
                    std::int64_t devices_per_domain = 1);

/// Places the world's ranks on `devices`, one for each. Neighbouring devices share a domain.
Placement listed(const WorldMap& map, std::span<const std::int64_t> devices, std::int64_t devices_per_domain);

}  // namespace refit::plan
