#pragma once
// The way of a broadcast between domains: transport/host_chain.hpp carries it out on hosts, and NCCL's rings go
// likewise.

#include <cstdint>
#include <vector>

#include "plan/placement.hpp"

namespace refit::plan {

/// The members of one communicator by domain, in the order of their first ranks. A broadcast goes from the root's
/// domain to the next one, and so on, so that it enters each other domain once.
class Chain {
 public:
  void add(std::int32_t domain);
  std::size_t domains() const { return domains_.size(); }

  /// A domain's part in a broadcast.
  struct Part {
    std::int32_t domain;
    bool enters, leaves;   ///< by its link: the root's does not enter, and the last one's does not leave
    std::int64_t receive;  ///< members to which one of the same domain sends
  };
  /// Returns the parts in a broadcast from a domain that has members.
  std::vector<Part> from(std::int32_t root) const;

 private:
  std::vector<std::int32_t> domains_;
  std::vector<std::int64_t> members_;  ///< of each
};

/// Returns the chains of golden's communicators: of all ranks, or one for each source stage with its ranks and the
/// destination's. `stages`: by source rank. `colocated`: rank r of either side is one process.
std::vector<Chain> broadcast_chains(const std::vector<std::int32_t>& stages, std::size_t count, bool per_stage,
                                    const Placement& placement, bool colocated);

/// Returns the chain of misc's stream: source rank 0 and the destination's ranks.
Chain stream_chain(const Placement& placement, bool colocated);

}  // namespace refit::plan
