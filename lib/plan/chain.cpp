#include "plan/chain.hpp"

#include <algorithm>

namespace refit::plan {

void Chain::add(std::int32_t domain) {
  const auto at = static_cast<std::size_t>(std::ranges::find(domains_, domain) - domains_.begin());
  if (at == domains_.size()) {
    domains_.push_back(domain);
    members_.push_back(0);
  }
  ++members_[at];
}

std::vector<Chain::Part> Chain::from(std::int32_t root) const {
  const auto first = static_cast<std::size_t>(std::ranges::find(domains_, root) - domains_.begin());
  std::vector<Part> parts;
  for (std::size_t i = 0; i < domains_.size(); ++i) {
    const std::size_t at = (first + i) % domains_.size();
    parts.push_back({domains_[at], i > 0, i + 1 < domains_.size(), members_[at] - 1});
  }
  return parts;
}

std::vector<Chain> broadcast_chains(const std::vector<std::int32_t>& stages, std::size_t count, bool per_stage,
                                    const Placement& placement, bool colocated) {
  std::vector<Chain> chains(per_stage ? count : 1);
  const std::size_t both = colocated ? placement.destination.size() : 0;  // counted with the destination's
  for (std::size_t rank = both; rank < placement.source.size(); ++rank) {
    for (std::size_t chain = 0; chain < chains.size(); ++chain)
      if (!per_stage || stages[rank] == static_cast<std::int32_t>(chain))
        chains[chain].add(placement.source[rank].domain);
  }
  for (Chain& chain : chains)
    for (const Placement::Site& site : placement.destination) chain.add(site.domain);
  return chains;
}

Chain stream_chain(const Placement& placement, bool colocated) {
  Chain chain;
  chain.add(placement.source.front().domain);
  for (std::size_t rank = colocated ? 1 : 0; rank < placement.destination.size(); ++rank)
    chain.add(placement.destination[rank].domain);
  return chain;
}

}  // namespace refit::plan
