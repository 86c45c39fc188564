#pragma once
// The lower bound that no schedule can beat, and the choice of fan-out.
//
// Cut every tensor by the shard boundaries of both sides into boxes of s_b bytes, held by the source ranks H_b and
// needed by the destination ranks R_b. The bound is the largest of
// - ingress: for every gen domain (a device, or an NVLink domain behind its network ports) the bytes of all boxes that
//   it needs, each once, over the domain's rate; and for every device likewise, over the device's rate. A device or
//   domain that holds a box needs no link for it;
// - egress: the best split of the traffic over the holders; the busiest device's bytes over its rate, and the busiest
//   train domain's over the domain's. For a set U of devices the boxes that only U holds need at least their
//   bytes / |U| on one of them; U runs over the holder sets and their connected unions, which is exact for nested
//   holder sets (Megatron's are);
// - fan-out: what the devices of a gen domain forward to each other beyond what enters it;
// - memory: bytes that every rank of a device stores, and that the device reads for its own (on hosts: both of the
//   node, whose ranks share the rate), staging not counted.

#include <cstdint>
#include <string>
#include <vector>

#include "plan/plan.hpp"

namespace refit::plan {

/// Rates in bytes per second; 0 = unknown, of a domain: what its devices do. On hosts every rank is a device and a
/// domain of its own, and all share `memory`.
struct Rates {
  double device_in = 0;
  double device_out = 0;
  double domain_in = 0;
  double domain_out = 0;
  double memory = 0;          ///< read + write
  double launch_seconds = 0;  ///< of one kernel launch or message group
  bool memory_is_shared = false;
};

/// Where the ranks are: equal numbers are the same device, or the same domain.
struct Placement {
  struct Site {
    std::int32_t device = 0;
    std::int32_t domain = 0;
  };
  std::vector<Site> source, destination;  ///< by rank
};

/// Both sides by themselves: neighbouring ranks share a device, and neighbouring devices of a side a domain.
Placement apart(std::int64_t source_ranks, std::int64_t destination_ranks, std::int64_t ranks_per_device = 1,
                std::int64_t devices_per_domain = 1);

/// Bytes of the busiest device (or domain) behind each term, and the seconds they take.
struct Bound {
  struct Terms {
    double ingress = 0, egress = 0, fanout = 0, memory = 0;
  };
  struct Bytes {
    std::int64_t ingress = 0, egress = 0, fanout = 0, memory = 0;
  } bytes;
  Terms seconds;
  /// The largest term and its name.
  double total() const;
  std::string term() const;
};

/// The bound for moving `tensors`; seconds stay 0 where a rate is unknown.
Bound lower_bound(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                  const Rates& rates, const Placement& placement);

/// The domains for which fan-out pays: the destination ranks of a domain where the plan with it keeps the busiest port
/// less busy than the plan without, by a twentieth at least; else 0.
std::int64_t choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                            const Rates& rates, const Placement& placement);

}  // namespace refit::plan
