#include "plan/cost.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace refit::plan {
namespace {

/// Ranks as devices, each once.
std::vector<std::int64_t> devices_of(const std::vector<Rank>& ranks, std::int64_t ranks_per_device) {
  std::vector<std::int64_t> devices;
  for (Rank rank : ranks) {
    const std::int64_t device = to_int(rank) / ranks_per_device;
    if (devices.empty() || devices.back() != device) devices.push_back(device);
  }
  return devices;
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
    std::vector<std::int64_t> holders, takers;  // devices
    std::vector<std::int64_t> holder_domains, taker_domains;
  };
  std::vector<Entry> entries;
  std::int64_t tensors = 0;
};

ClassBoxes boxes_of(const Tensor& tensor, const Layout& source, const Layout& destination, const Rates& rates) {
  ClassBoxes result;
  const std::int64_t ranks_per_domain = rates.ranks_per_device * rates.devices_per_domain;
  const std::vector<Holding> wanted = holdings(destination, tensor);
  for (const Holding& held : holdings(source, tensor)) {
    for (const Holding& need : wanted) {
      const auto box = intersect(held.box, need.box);
      if (!box) continue;
      result.entries.push_back({box->volume() * byte_size(held.format.dtype),
                                devices_of(held.ranks, rates.ranks_per_device),
                                devices_of(need.ranks, rates.ranks_per_device),
                                devices_of(held.ranks, ranks_per_domain), devices_of(need.ranks, ranks_per_domain)});
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

double Bound::total() const { return std::max({seconds.ingress, seconds.egress, seconds.fanout, seconds.memory}); }

std::string Bound::term() const {
  const double largest = total();
  if (largest == seconds.ingress) return "ingress";
  if (largest == seconds.egress) return "egress";
  return largest == seconds.fanout ? "fanout" : "memory";
}

Bound lower_bound(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                  const Rates& rates) {
  std::map<std::tuple<Shape, DType, std::uint64_t, std::uint64_t>, ClassBoxes> classes;
  for (const Tensor& tensor : tensors) {
    auto [entry, is_new] = classes.try_emplace(
        {tensor.shape, tensor.dtype, source.placement_class(tensor), destination.placement_class(tensor)});
    if (is_new) entry->second = boxes_of(tensor, source, destination, rates);
    ++entry->second.tensors;
  }
  std::map<std::int64_t, std::int64_t> into_domain, into_device;
  HeldBytes held, held_by_domain;
  for (const auto& [key, boxes] : classes) {
    for (const auto& box : boxes.entries) {
      const std::int64_t bytes = box.bytes * boxes.tensors;
      for (std::int64_t domain : box.taker_domains) into_domain[domain] += bytes;
      for (std::int64_t device : box.takers) into_device[device] += bytes;
      const std::int64_t leaving = bytes * static_cast<std::int64_t>(box.taker_domains.size());
      held[box.holders] += leaving;
      held_by_domain[box.holder_domains] += leaving;
    }
  }

  Bound bound;
  const double split = best_split(held);
  const double domain_in =
      rates.domain_in > 0 ? rates.domain_in : rates.device_in * static_cast<double>(rates.devices_per_domain);
  bound.bytes.ingress = largest(into_device);
  bound.bytes.egress = static_cast<std::int64_t>(split);
  bound.seconds.ingress = std::max(over(static_cast<double>(bound.bytes.ingress), rates.device_in),
                                   over(static_cast<double>(largest(into_domain)), domain_in));
  bound.seconds.egress = std::max(over(split, rates.device_out), over(best_split(held_by_domain), rates.domain_out));
  const std::int64_t forwarded = total_of(into_device) - total_of(into_domain);
  const auto gen_devices = std::max<std::int64_t>(1, static_cast<std::int64_t>(into_device.size()));
  bound.bytes.fanout = forwarded / gen_devices;
  bound.seconds.fanout = over(static_cast<double>(bound.bytes.fanout), rates.device_out);
  bound.bytes.memory =
      rates.memory_is_shared ? 2 * total_of(into_device) : std::max(bound.bytes.ingress, bound.bytes.egress);
  bound.seconds.memory = over(static_cast<double>(bound.bytes.memory), rates.memory);
  return bound;
}

std::int64_t Traffic::forwarded() const {
  return std::accumulate(forwarded_out.begin(), forwarded_out.end(), std::int64_t{0});
}

std::int64_t Traffic::egress_max() const {
  std::int64_t result = forwarded_out.empty() ? 0 : *std::max_element(forwarded_out.begin(), forwarded_out.end());
  for (const auto& row : matrix) result = std::max(result, std::accumulate(row.begin(), row.end(), std::int64_t{0}));
  return result;
}

std::int64_t Traffic::ingress_max() const {
  std::int64_t result = 0;
  for (std::size_t column = 0; !matrix.empty() && column < matrix.front().size(); ++column) {
    std::int64_t sum = forwarded_in[column];
    for (const auto& row : matrix) sum += row[column];
    result = std::max(result, sum);
  }
  return result;
}

Traffic traffic(const Planner& planner, const std::vector<Tensor>& model_tensors) {
  const auto sources = static_cast<std::size_t>(planner.source().ranks());
  const auto destinations = static_cast<std::size_t>(planner.destination().ranks());
  Traffic result;
  result.matrix.assign(sources, std::vector<std::int64_t>(destinations, 0));
  result.stage_ingress.assign(static_cast<std::size_t>(planner.source().stages()),
                              std::vector<std::int64_t>(destinations, 0));
  result.forwarded_out.assign(destinations, 0);
  result.forwarded_in.assign(destinations, 0);
  planner.for_each_copy([&](const Copy& copy) {
    const auto from = static_cast<std::size_t>(to_int(copy.source.rank));
    const auto to = static_cast<std::size_t>(to_int(copy.destination.rank));
    const std::int64_t bytes = copy.wire_bytes();
    result.bytes += bytes;
    ++result.copies;
    result.hash += hash(copy, model_tensors[static_cast<std::size_t>(copy.tensor)].name);
    if (copy.fan_out == FanOut::forwarded) {
      result.forwarded_out[from] += bytes;
      result.forwarded_in[to] += bytes;
      return;
    }
    result.matrix[from][to] += bytes;
    result.stage_ingress[static_cast<std::size_t>(planner.source().stage(copy.source.rank))][to] += bytes;
  });
  return result;
}

namespace {

/// Seconds of the busiest device port under a plan's copies; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, const Rates& rates) {
  std::map<std::int64_t, std::int64_t> sent, received, forwarded;
  planner.for_each_copy([&](const Copy& copy) {
    const std::int64_t from = to_int(copy.source.rank) / rates.ranks_per_device;
    const std::int64_t to = to_int(copy.destination.rank) / rates.ranks_per_device;
    const bool between_takers = copy.fan_out == FanOut::forwarded;
    if (between_takers && from == to) return;  // within a device's memory
    (between_takers ? forwarded : sent)[from] += copy.wire_bytes();
    received[to] += copy.wire_bytes();
  });
  return std::max({over(static_cast<double>(largest(sent)), rates.device_out),
                   over(static_cast<double>(largest(forwarded)), rates.device_out),
                   over(static_cast<double>(largest(received)), rates.device_in)});
}

}  // namespace

std::int64_t choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                            const Rates& rates) {
  constexpr double kWorthwhile = 0.95;
  const std::int64_t domain_ranks = rates.ranks_per_device * rates.devices_per_domain;
  if (domain_ranks == 1 || rates.memory_is_shared) return 0;
  const double without = busiest_port_seconds(Planner(tensors, source, destination), rates);
  const double with = busiest_port_seconds(Planner(tensors, source, destination, domain_ranks), rates);
  return with < kWorthwhile * without ? domain_ranks : 0;
}

ModelSeconds model_seconds(const Bound& bound, const Traffic& traffic, const Schedule& schedule, const Rates& rates) {
  ModelSeconds model;
  const double base = bound.total();
  if (schedule.stages_in_flight > 0) {
    double serial = 0;
    for (const auto& ingress : traffic.stage_ingress) {
      serial += over(static_cast<double>(*std::max_element(ingress.begin(), ingress.end())), rates.device_in);
    }
    const double in_flight = static_cast<double>(
        std::min<std::int64_t>(schedule.stages_in_flight, static_cast<std::int64_t>(traffic.stage_ingress.size())));
    model.schedule = std::max(0.0, serial / in_flight - base);
  }
  // Packing reads and writes every staged byte once more; it shares the memory with the transfer itself.
  model.staging = over(2.0 * static_cast<double>(schedule.staged_bytes), rates.memory);
  model.latency = static_cast<double>(schedule.serial_steps) * rates.launch_seconds;
  model.total = base + model.staging + model.schedule + model.latency;
  const std::array<std::pair<double, const char*>, 3> extra{
      {{model.staging, "staging"}, {model.schedule, "schedule"}, {model.latency, "latency"}}};
  const auto most = std::max_element(extra.begin(), extra.end());
  model.term = most->first > base ? most->second : bound.term();
  return model;
}

}  // namespace refit::plan
