#pragma once
// Which of a job's ranks share a host, and which a device.

#include <cstdint>
#include <vector>

#include "plan/cost.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// Where every rank is: hosts and devices are numbered in the order of their first ranks.
struct Places {
  std::vector<int> hosts, devices;  ///< by rank

  std::int64_t ranks_per_device() const;  ///< at most
  std::int64_t devices_per_host() const;  ///< at most
  /// Which of its host's devices a rank uses: 0, 1, ... in the order of their numbers.
  int local_device(int rank) const;
  /// For the cost model: the first `train_ranks` are the source; a host's devices are one domain.
  plan::Placement placement(std::int32_t train_ranks) const;
};

/// Without devices every rank is one. Collective over `world`.
Places places_of(transport::Control& world);

}  // namespace refit::transport
