#include "engine/rates.hpp"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>
#include <utility>

#include "kernels/memory.hpp"
#include "transport/location.hpp"

namespace refit::engine {
namespace {

using transport::Message;

constexpr std::int64_t kProbeBytes = 32 << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void finish(transport::Request& request) {
  while (!request.test()) std::this_thread::yield();
}

/// Repeats `once` on all ranks until the slowest has spent `seconds`; returns the seconds of the best repetition, as
/// the maximum over ranks of each. The first repetition only warms up.
template <typename Once>
double best_time(transport::Control& world, double seconds, const Once& once) {
  double best = 0;
  double spent = 0;
  for (int repetition = 0; repetition < 3 || spent < seconds; ++repetition) {
    world.barrier();
    const double start = now();
    once();
    const double took = world.max(now() - start);
    if (repetition == 0) continue;
    spent += took;
    best = best == 0 ? took : std::min(best, took);
  }
  return best;
}

double memory_rate(const kernels::ExecutionSpace& space, transport::Control& world, const kernels::DeviceBuffer& from,
                   const kernels::DeviceBuffer& to, bool active, double seconds) {
  const std::int64_t bytes = from.bytes();
  const double took = best_time(world, seconds, [&] {
    if (active) kernels::copy_bytes(space, from.data(), to.data(), bytes);
  });
  return 2.0 * static_cast<double>(bytes) / took;
}

/// The ranks of the first host, and as many of the last rank's.
std::pair<std::vector<int>, std::vector<int>> between_hosts(const std::vector<int>& hosts) {
  std::vector<int> first, last;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    if (hosts[rank] == hosts.front()) first.push_back(static_cast<int>(rank));
    if (hosts[rank] == hosts.back()) last.push_back(static_cast<int>(rank));
  }
  const std::size_t pairs = std::min(first.size(), last.size());
  first.resize(pairs);
  last.resize(pairs);
  return {first, last};
}

/// To which gen rank, of those that are `reached`, the rate from `rank` is measured: on another device where there is
/// one; -1: none is reached.
template <typename Reached>
int partner_of(int rank, const Places& places, std::int32_t train_ranks, const Reached& reached) {
  const auto device = [&](int each) { return places.devices[static_cast<std::size_t>(each)]; };
  const int gen_ranks = static_cast<int>(std::ssize(places.devices)) - train_ranks;
  int partner = -1;
  for (int i = 0; i < gen_ranks; ++i) {
    const int peer = train_ranks + (rank + i) % gen_ranks;
    if (peer == rank || !reached(peer)) continue;
    if (device(peer) != device(rank)) return peer;
    if (partner < 0) partner = peer;
  }
  return partner;
}

}  // namespace

double measure_pairs(transport::Control& world, transport::Communicator& communicator, const std::vector<int>& senders,
                     const std::vector<int>& receivers, std::int64_t bytes, double seconds) {
  const kernels::DeviceBuffer buffer(bytes);
  const auto request = communicator.make_request(1);
  std::vector<Message> messages;
  for (std::size_t i = 0; i < senders.size(); ++i) {
    if (senders[i] == communicator.rank())
      messages.push_back({Message::Kind::send, receivers[i], buffer.data(), bytes});
    if (receivers[i] == communicator.rank())
      messages.push_back({Message::Kind::receive, senders[i], buffer.data(), bytes});
  }
  const double took = best_time(world, seconds, [&] {
    if (messages.empty()) return;
    communicator.post(messages, 0, *request);
    finish(*request);
  });
  return static_cast<double>(bytes) / took;
}

Rates measure_rates(const kernels::ExecutionSpace& space, transport::Control& world,
                    transport::Communicator& communicator, std::int64_t ranks_per_host, double seconds) {
  Rates rates;
  const kernels::DeviceBuffer from(kProbeBytes);
  const kernels::DeviceBuffer to(kProbeBytes);
  for (const auto& buffer : {from, to}) kernels::poison(space, buffer.data(), kProbeBytes);  // touched
  space.fence();
  rates.memory = memory_rate(space, world, from, to, true, seconds) * static_cast<double>(ranks_per_host);
  const double alone = memory_rate(space, world, from, to, world.rank() == 0, seconds) / 2.0;
  rates.memory = std::max(rates.memory, 2.0 * alone);
  rates.pair = alone;
  if (world.size() < 2) return rates;

  const int half = world.size() / 2;
  std::vector<int> senders, receivers;
  for (int i = 0; i < half; ++i) {
    senders.push_back(i);
    receivers.push_back(half + i);
  }
  rates.pair_message = measure_pairs(world, communicator, {0}, {world.size() - 1}, kProbeBytes, seconds);
  rates.all_pairs = measure_pairs(world, communicator, senders, receivers, kProbeBytes, seconds);
  rates.latency = 8.0 / measure_pairs(world, communicator, {0}, {world.size() - 1}, 8, seconds / 10);
  // Ranks of one host can store into each other's memory; across hosts only messages reach.
  rates.pair = world.size() <= ranks_per_host ? std::max(alone, rates.pair_message) : rates.pair_message;
  return rates;
}

std::int64_t Places::ranks_per_device() const {
  std::int64_t most = 1;
  for (int device : devices) most = std::max<std::int64_t>(most, std::ranges::count(devices, device));
  return most;
}

std::int64_t Places::devices_per_host() const {
  int most = 0;
  for (std::size_t rank = 0; rank < devices.size(); ++rank)
    most = std::max(most, local_device(static_cast<int>(rank)) + 1);
  return most;
}

int Places::local_device(int rank) const {
  const auto at = static_cast<std::size_t>(rank);
  std::set<int> before;
  for (std::size_t other = 0; other < devices.size(); ++other) {
    if (hosts[other] == hosts[at] && devices[other] < devices[at]) before.insert(devices[other]);
  }
  return static_cast<int>(before.size());
}

plan::Placement Places::placement(std::int32_t train_ranks) const {
  plan::Placement placement;
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const bool is_train = static_cast<std::int32_t>(rank) < train_ranks;
    (is_train ? placement.source : placement.destination).push_back({devices[rank], hosts[rank]});
  }
  return placement;
}

Places places_of(transport::Control& world) {
  std::vector<std::uint64_t> hosts, devices;
  const auto number = [](std::vector<std::uint64_t>& known, std::uint64_t value) {
    const auto found = std::find(known.begin(), known.end(), value) - known.begin();
    if (found == std::ssize(known)) known.push_back(value);
    return static_cast<int>(found);
  };
  Places places;
  for (const transport::Location& each : transport::gather_all(world, transport::location())) {
    places.hosts.push_back(number(hosts, each.host));
    places.devices.push_back(number(devices, each.device));
  }
  return places;
}

Rates measure_device_rates(const kernels::ExecutionSpace& space, transport::Control& world,
                           const transport::PeerMemory* peers, transport::Communicator* communicator,
                           const Places& places, std::int32_t train_ranks, std::int64_t gen_arena_bytes, double seconds,
                           std::int64_t probe_bytes) {
  Rates rates;
  const kernels::DeviceBuffer from(probe_bytes);
  const kernels::DeviceBuffer to(probe_bytes);
  rates.memory = memory_rate(space, world, from, to, true, seconds);
  const int self = world.rank();
  const std::int32_t gen_ranks = world.size() - train_ranks;
  const bool is_train = self < train_ranks;
  const auto crosses = [&](int a, int b) {
    return places.devices[static_cast<std::size_t>(a)] != places.devices[static_cast<std::size_t>(b)];
  };
  if (peers != nullptr) {
    const std::int64_t bytes = std::min(probe_bytes, gen_arena_bytes);
    const int partner = partner_of(self, places, train_ranks, [&](int peer) { return peers->map(peer) != nullptr; });
    std::byte* target = partner < 0 ? nullptr : peers->map(partner);
    const auto store = [&](bool active) {
      const double took = best_time(world, seconds, [&] {
        if (active) kernels::copy_bytes(space, from.data(), target, bytes);
      });
      return static_cast<double>(bytes) / took;
    };
    // The first rank whose partner is on another device; else the first with any.
    const int none = 2 * world.size();
    const int turn = partner < 0 ? none : crosses(self, partner) ? self : world.size() + self;
    const std::int64_t first = -world.max(std::int64_t{-turn});
    if (first < none) rates.pair_store = store(turn == first);
    if (world.sum(std::int64_t{is_train && target == nullptr}) == 0) rates.all_stores = store(is_train);
  }
  if (communicator != nullptr) {
    std::vector<int> senders, receivers;
    for (int i = 0; i < std::min(train_ranks, gen_ranks); ++i) {
      senders.push_back(i);
      receivers.push_back(train_ranks + i);
    }
    std::pair<int, int> alone{0, train_ranks};
    for (int rank = train_ranks - 1; rank >= 0; --rank) {
      const int partner = partner_of(rank, places, train_ranks, [](int) { return true; });
      if (crosses(rank, partner)) alone = {rank, partner};
    }
    const auto pair = [&](std::int64_t bytes, double limit) {
      return measure_pairs(world, *communicator, {alone.first}, {alone.second}, bytes, limit);
    };
    rates.pair_message = pair(probe_bytes, seconds);
    rates.all_pairs = measure_pairs(world, *communicator, senders, receivers, probe_bytes, seconds);
    rates.latency = 8.0 / pair(8, seconds / 10);
    if (places.hosts.back() != places.hosts.front()) {
      const auto [out, in] = between_hosts(places.hosts);
      rates.network =
          measure_pairs(world, *communicator, out, in, probe_bytes, seconds) * static_cast<double>(out.size());
    }
  }
  rates.pair = std::max(rates.pair_store, rates.pair_message);
  return rates;
}

plan::Rates device_rates(const Rates& rates, std::int64_t ranks_per_device) {
  plan::Rates result;
  result.device_in = result.device_out = rates.pair;
  result.domain_in = result.domain_out = rates.network;
  result.memory = rates.memory * static_cast<double>(ranks_per_device);
  result.launch_seconds = rates.latency;
  return result;
}

plan::Rates host_rates(const Rates& rates) {
  plan::Rates result;
  result.device_in = result.device_out = result.domain_in = result.domain_out = rates.pair;
  result.memory = rates.memory;
  result.launch_seconds = rates.latency;
  result.memory_is_shared = true;
  return result;
}

}  // namespace refit::engine
