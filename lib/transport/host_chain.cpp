#include "transport/host_chain.hpp"

#include <algorithm>

namespace refit::transport {

HostChain::HostChain(const std::vector<int>& hosts) : hosts_(hosts) {
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    ranks_[hosts[rank]].push_back(static_cast<int>(rank));
    chain_.add(hosts[rank]);
  }
}

HostChain::Place HostChain::place(int rank, int root) const {
  const int host = hosts_[static_cast<std::size_t>(rank)], first = hosts_[static_cast<std::size_t>(root)];
  const auto head = [&](int of) { return of == first ? root : ranks_.at(of).front(); };
  Place place;
  if (rank != head(host)) {
    place.parent = head(host);
    return place;
  }
  const std::vector<plan::Chain::Part> parts = chain_.from(first);
  const auto part = std::ranges::find(parts, host, &plan::Chain::Part::domain);
  if (part->enters) place.parent = head((part - 1)->domain);
  if (part->leaves) place.children.push_back(head((part + 1)->domain));
  for (const int other : ranks_.at(host))
    if (other != rank) place.children.push_back(other);
  return place;
}

}  // namespace refit::transport
