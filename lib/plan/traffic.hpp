#pragma once
// Loads of ports by a plan's copies, counted for the world by classes of tensors, or for one rank by its own copies.
//
// Example: train TP1 to gen DP2 on one node of three GPUs, 16 GB: the train rank sends 32 GB to other devices and none
// to other domains; each gen rank receives 16 GB.

#include <cstdint>
#include <functional>
#include <vector>

#include "plan/cost.hpp"
#include "plan/plan.hpp"

namespace refit::plan {

/// The form of two in which a copy travels.
enum class Form : std::uint8_t {
  sent,   ///< as the sender has it; receivers cast (golden, p2p)
  stored  ///< as the receiver stores it; senders cast (direct)
};

std::int64_t bytes_of(const Copy& copy, Form form);

/// The load of one rank that sends, or receives, in one refit: bytes in the form that travels, and copies.
struct PortLoad {
  std::int64_t bytes = 0;
  std::int64_t memory = 0;      ///< bytes that it reads, or stores, at its own width
  std::int64_t device = 0;      ///< of `bytes`: to or from other devices
  std::int64_t domain = 0;      ///< of `bytes`: to or from other domains
  std::int64_t staged = 0;      ///< of `device`: bytes that p2p packs, or unpacks
  std::int64_t staged_far = 0;  ///< of `domain`: likewise
  std::int64_t copies = 0;
  std::int64_t copies_far = 0;   ///< to or from other domains
  std::int64_t self_bytes = 0;   ///< from a rank to itself: in `memory` alone of the above
  std::int64_t self_memory = 0;  ///< of `memory`: read or stored by these
  std::int64_t self_copies = 0;
  std::int64_t hops = 0;  ///< most of a copy: domains that its data has passed before

  PortLoad& operator+=(const PortLoad& other);
};

/// The loads of all ranks.
struct Loads {
  std::vector<std::int32_t> stage;              ///< by source rank
  std::vector<PortLoad> sent;                   ///< by source rank
  std::vector<std::vector<PortLoad>> received;  ///< [source stage][destination rank], from source ranks
  std::vector<PortLoad> forwarded_out;          ///< by destination rank: to other destination ranks (fan-out)
  std::vector<PortLoad> forwarded_in;           ///< by destination rank: from other destination ranks

  Loads() = default;
  Loads(const Layout& source, std::int32_t destination_ranks);

  /// Adds both ends of a copy that `times` tensors have.
  void add(const Copy& copy, std::int64_t times, const Planner::Lie& lie, const Placement& placement, Form form);
  Loads& operator+=(const Loads& other);
  /// Puts in the loads that loads_of found in one process.
  void put(const OwnRanks& own, const std::vector<PortLoad>& loads);
  /// Returns the load of one destination rank from source ranks, of all stages.
  PortLoad received_by(std::size_t rank) const;
};

/// Returns one process's own loads, by its copies. A source rank has the load that it sends; a destination rank has the
/// load that it forwards, the load that is forwarded to it, and the load that it receives from each source stage. A
/// process that is both has them one after the other.
std::vector<PortLoad> loads_of(const std::vector<Copy>& copies, const OwnRanks& own, const Layout& source,
                               const Placement& placement, Form form);

/// The world's totals. Copies from a rank to itself are in `loads` alone, and in the hash.
struct Traffic {
  std::int64_t bytes = 0;
  std::int64_t copies = 0;
  Sum128 hash;  ///< of the plan: the sum over its copies
  Loads loads;
  std::vector<std::vector<std::int64_t>> matrix;  ///< [source rank][destination rank], of holders; only on request

  std::vector<std::int64_t> sent() const;      ///< by source rank
  std::vector<std::int64_t> received() const;  ///< by destination rank, forwards included
  std::int64_t forwarded() const;              ///< of `bytes`: between destination ranks
  std::int64_t local() const;                  ///< of `bytes`: both ends are one device
  std::int64_t egress_max() const;             ///< of the busiest rank of either side
  std::int64_t ingress_max() const;            ///< of the busiest destination rank
};

struct TrafficOptions {
  bool hash = true;
  bool matrix = false;  ///< memory for source ranks x destination ranks
  Form form = Form::sent;
};

/// Counts the world's copies, those of a class of tensors once for all of them.
Traffic traffic(const Planner& planner, const Placement& placement, const TrafficOptions& options = {});
/// Counts with every rank as a device and a domain of its own.
Traffic traffic(const Planner& planner, const TrafficOptions& options = {});

/// Returns the loads of each of `groups` sets of tensors, counted in one walk. `group_of` returns every tensor's set,
/// below `groups`.
std::vector<Loads> loads_by_group(const Planner& planner, const Placement& placement, Form form, std::size_t groups,
                                  const std::function<std::size_t(const Tensor&)>& group_of);

}  // namespace refit::plan
