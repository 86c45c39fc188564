#include "transport/host_chain.hpp"

#include <algorithm>
#include <map>

namespace refit::transport {

HostChain::HostChain(std::vector<int> hosts) : hosts_(std::move(hosts)) {
  std::map<int, int> numbers;
  for (std::size_t rank = 0; rank < hosts_.size(); ++rank) {
    const auto [entry, is_new] = numbers.try_emplace(hosts_[rank], static_cast<int>(order_.size()));
    if (is_new) order_.emplace_back();
    hosts_[rank] = entry->second;
    order_[static_cast<std::size_t>(entry->second)].push_back(static_cast<int>(rank));
  }
}

HostChain::Place HostChain::place(int rank, int root) const {
  const auto host_of = [this](int of) { return hosts_[static_cast<std::size_t>(of)]; };
  const int hosts = static_cast<int>(order_.size()), host = host_of(rank), first = host_of(root);
  const auto head = [&](int of) { return of == first ? root : order_[static_cast<std::size_t>(of)].front(); };
  Place place;
  if (rank != head(host)) {
    place.parent = head(host);
    return place;
  }
  if (host != first) place.parent = head((host + hosts - 1) % hosts);
  const int next = (host + 1) % hosts;
  if (next != first) place.children.push_back(head(next));
  for (const int other : order_[static_cast<std::size_t>(host)])
    if (other != rank) place.children.push_back(other);
  return place;
}

}  // namespace refit::transport
