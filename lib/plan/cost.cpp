#include "plan/cost.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace refit::plan {
namespace {

using Sites = std::vector<Placement::Site>;
using Numbers = std::vector<std::int64_t>;

/// The devices, or domains, of ranks: each once, ascending.
Numbers numbers_of(const std::vector<Rank>& ranks, const Sites& sites, std::int32_t Placement::Site::*number) {
  std::set<std::int64_t> numbers;
  for (Rank rank : ranks) numbers.insert(sites[static_cast<std::size_t>(to_int(rank))].*number);
  return {numbers.begin(), numbers.end()};
}

/// Those that are not in `others`.
Numbers without(const Numbers& numbers, const Numbers& others) {
  Numbers rest;
  std::ranges::set_difference(numbers, others, std::back_inserter(rest));
  return rest;
}

/// Bytes by the set of devices that holds them.
using HeldBytes = std::map<std::vector<std::int64_t>, std::int64_t>;

bool is_subset(const std::vector<std::int64_t>& part, const std::vector<std::int64_t>& whole) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

/// The holder sets, and the unions of those that are connected through common devices.
std::set<std::vector<std::int64_t>> candidates(const HeldBytes& held) {
  std::set<std::vector<std::int64_t>> result;
  std::vector<std::set<std::int64_t>> groups;
  for (const auto& [devices, bytes] : held) {
    result.insert(devices);
    std::set<std::int64_t> merged(devices.begin(), devices.end());
    std::erase_if(groups, [&](const std::set<std::int64_t>& group) {
      const bool common =
          std::any_of(devices.begin(), devices.end(), [&](std::int64_t d) { return group.contains(d); });
      if (common) merged.insert(group.begin(), group.end());
      return common;
    });
    groups.push_back(merged);
  }
  for (const auto& group : groups) result.insert(std::vector<std::int64_t>(group.begin(), group.end()));
  return result;
}

/// The busiest device's bytes under the best split of the traffic over holders.
double best_split(const HeldBytes& held) {
  double busiest = 0;
  for (const auto& set : candidates(held)) {
    std::int64_t bytes = 0;
    for (const auto& [devices, amount] : held) {
      if (is_subset(devices, set)) bytes += amount;
    }
    busiest = std::max(busiest, static_cast<double>(bytes) / static_cast<double>(set.size()));
  }
  return busiest;
}

/// Boxes of a class of tensors, with bytes: computed once per class, counted per tensor.
struct ClassBoxes {
  struct Entry {
    std::int64_t bytes;
    Numbers holders, holder_domains;
    Numbers stores;             ///< the device of each taker
    Numbers local;              ///< devices that take what they hold
    Numbers arrives;            ///< devices that take what they do not hold
    Numbers enters;             ///< domains that do
    std::int64_t first_copies;  ///< domains with devices of `arrives`: the copies that fan-out cannot spare
  };
  std::vector<Entry> entries;
  std::int64_t tensors = 0;
};

ClassBoxes boxes_of(const Tensor& tensor, const Layout& source, const Layout& destination, const Placement& placement) {
  using Site = Placement::Site;
  ClassBoxes result;
  const std::vector<Holding> wanted = holdings(destination, tensor);
  std::vector<Numbers> takers, taker_domains;  // of each
  for (const Holding& need : wanted) {
    takers.push_back(numbers_of(need.ranks, placement.destination, &Site::device));
    taker_domains.push_back(numbers_of(need.ranks, placement.destination, &Site::domain));
  }
  for (const Holding& held : holdings(source, tensor)) {
    const Numbers holders = numbers_of(held.ranks, placement.source, &Site::device);
    const Numbers holder_domains = numbers_of(held.ranks, placement.source, &Site::domain);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const auto box = intersect(held.box, wanted[i].box);
      if (!box) continue;
      ClassBoxes::Entry entry{box->volume() * byte_size(held.format.dtype), holders, holder_domains, {}, {}, {}, {}, 0};
      std::set<std::int64_t> supplied;
      for (Rank rank : wanted[i].ranks) {
        const Site& site = placement.destination[static_cast<std::size_t>(to_int(rank))];
        entry.stores.push_back(site.device);
        if (!std::ranges::binary_search(holders, site.device)) supplied.insert(site.domain);
      }
      entry.arrives = without(takers[i], holders);
      entry.local = without(takers[i], entry.arrives);
      entry.enters = without(taker_domains[i], holder_domains);
      entry.first_copies = std::ssize(supplied);
      result.entries.push_back(std::move(entry));
    }
  }
  return result;
}

double over(double bytes, double rate) { return rate > 0 ? bytes / rate : 0; }

std::int64_t largest(const std::map<std::int64_t, std::int64_t>& amounts) {
  std::int64_t result = 0;
  for (const auto& [key, bytes] : amounts) result = std::max(result, bytes);
  return result;
}

std::int64_t total_of(const std::map<std::int64_t, std::int64_t>& amounts) {
  return std::accumulate(amounts.begin(), amounts.end(), std::int64_t{0},
                         [](std::int64_t sum, const auto& entry) { return sum + entry.second; });
}

}  // namespace

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

double Bound::total() const { return std::max({seconds.ingress, seconds.egress, seconds.fanout, seconds.memory}); }

std::string Bound::term() const {
  const double largest = total();
  if (largest == seconds.ingress) return "ingress";
  if (largest == seconds.egress) return "egress";
  return largest == seconds.fanout ? "fanout" : "memory";
}

Bound lower_bound(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                  const Rates& rates, const Placement& placement) {
  std::map<std::tuple<Shape, DType, std::uint64_t, std::uint64_t>, ClassBoxes> classes;
  for (const Tensor& tensor : tensors) {
    auto [entry, is_new] = classes.try_emplace(
        {tensor.shape, tensor.dtype, source.placement_class(tensor), destination.placement_class(tensor)});
    if (is_new) entry->second = boxes_of(tensor, source, destination, placement);
    ++entry->second.tensors;
  }
  std::map<std::int64_t, std::int64_t> into_domain, into_device, stored, moved;  // moved: read and stored, of a device
  HeldBytes held, held_by_domain;
  std::int64_t forwarded = 0;
  for (const auto& [key, boxes] : classes) {
    for (const auto& box : boxes.entries) {
      const std::int64_t bytes = box.bytes * boxes.tensors;
      for (std::int64_t domain : box.enters) into_domain[domain] += bytes;
      for (std::int64_t device : box.arrives) into_device[device] += bytes;
      for (std::int64_t device : box.stores) {
        stored[device] += bytes;
        moved[device] += bytes;
      }
      for (std::int64_t device : box.local) moved[device] += bytes;
      held[box.holders] += bytes * box.first_copies;
      held_by_domain[box.holder_domains] += bytes * std::ssize(box.enters);
      forwarded += bytes * (std::ssize(box.arrives) - box.first_copies);
    }
  }

  Bound bound;
  const double split = best_split(held);
  bound.bytes.ingress = largest(into_device);
  bound.bytes.egress = static_cast<std::int64_t>(split);
  bound.seconds.ingress = std::max(over(static_cast<double>(bound.bytes.ingress), rates.device_in),
                                   over(static_cast<double>(largest(into_domain)), rates.domain_in));
  bound.seconds.egress = std::max(over(split, rates.device_out), over(best_split(held_by_domain), rates.domain_out));
  bound.bytes.fanout = forwarded / std::max<std::int64_t>(1, std::ssize(stored));
  bound.seconds.fanout = over(static_cast<double>(bound.bytes.fanout), rates.device_out);
  bound.bytes.memory = rates.memory_is_shared ? 2 * total_of(stored) : std::max(largest(moved), bound.bytes.egress);
  bound.seconds.memory = over(static_cast<double>(bound.bytes.memory), rates.memory);
  return bound;
}

namespace {

/// Seconds of the busiest device port under a plan's copies; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, const Rates& rates, const Placement& placement) {
  const auto devices = [](const Sites& sites) {
    std::int32_t most = 0;
    for (const Placement::Site& site : sites) most = std::max(most, site.device);
    return static_cast<std::size_t>(most) + 1;
  };
  const std::size_t all = std::max(devices(placement.source), devices(placement.destination));
  std::vector<std::int64_t> sent(all), received(all);
  planner.for_each_shared_copy([&](const Copy& copy, std::span<const Tensor* const> tensors, const Planner::Lie&) {
    const Sites& senders = copy.fan_out == FanOut::forwarded ? placement.destination : placement.source;
    const auto from = static_cast<std::size_t>(senders[static_cast<std::size_t>(to_int(copy.source.rank))].device);
    const auto to =
        static_cast<std::size_t>(placement.destination[static_cast<std::size_t>(to_int(copy.destination.rank))].device);
    if (from == to) return;  // within a device's memory
    sent[from] += copy.wire_bytes() * std::ssize(tensors);
    received[to] += copy.wire_bytes() * std::ssize(tensors);
  });
  return std::max(over(static_cast<double>(std::ranges::max(sent)), rates.device_out),
                  over(static_cast<double>(std::ranges::max(received)), rates.device_in));
}

/// How many neighbouring ranks a domain has, of which only the last may have fewer; 0 where that is not so.
std::int64_t ranks_per_domain(const Sites& sites) {
  std::vector<std::int64_t> runs;
  for (std::size_t rank = 0; rank < sites.size(); ++rank) {
    if (rank == 0 || sites[rank].domain != sites[rank - 1].domain) runs.push_back(0);
    ++runs.back();
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const bool last = i + 1 == runs.size();
    if (runs[i] != runs.front() && (!last || runs[i] > runs.front())) return 0;
  }
  return runs.empty() ? 0 : runs.front();
}

}  // namespace

std::int64_t choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                            const Rates& rates, const Placement& placement) {
  constexpr double kWorthwhile = 0.95;
  const std::int64_t domain_ranks = ranks_per_domain(placement.destination);
  if (domain_ranks < 2 || rates.memory_is_shared) return 0;
  const double without = busiest_port_seconds(Planner(tensors, source, destination), rates, placement);
  const double with = busiest_port_seconds(Planner(tensors, source, destination, domain_ranks), rates, placement);
  return with < kWorthwhile * without ? domain_ranks : 0;
}

}  // namespace refit::plan
