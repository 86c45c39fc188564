#pragma once
// The hosts and devices that a job's ranks share.

#include <cstdint>
#include <vector>

#include "plan/cost.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// Hosts and devices of all ranks, numbered in the order of their first ranks.
struct Places {
  std::vector<int> hosts, devices;  ///< by rank

  std::int64_t ranks_per_device() const;  ///< of the device with the most ranks
  std::int64_t devices_per_host() const;  ///< of the host with the most devices
  /// Returns which of its host's devices a rank uses: 0, 1, ... in the order of their numbers.
  int local_device(int rank) const;
  /// Returns the placement of both sides' ranks for the cost model; a host's devices are one domain.
  plan::Placement placement(const WorldMap& map) const;
};

/// Finds the places of all ranks. Without devices every rank counts as one. Collective over `world`.
Places places_of(transport::Control& world);

}  // namespace refit::transport
