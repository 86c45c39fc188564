#include "engine/rates.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "core/hash.hpp"
#include "kernels/memory.hpp"
#include "layout/partition.hpp"
#include "transport/bytes.hpp"

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

std::vector<int> hosts_of(transport::Control& world) {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  transport::Control::Bytes bytes;
  transport::append(bytes, hash_name(name));
  std::vector<std::uint64_t> known;
  std::vector<int> hosts;
  for (const auto& each :
       world.exchange(std::vector<transport::Control::Bytes>(static_cast<std::size_t>(world.size()), bytes))) {
    const std::uint64_t host = transport::read_all<std::uint64_t>(each).front();
    const auto found = std::find(known.begin(), known.end(), host);
    hosts.push_back(static_cast<int>(found - known.begin()));
    if (found == known.end()) known.push_back(host);
  }
  return hosts;
}

Rates measure_device_rates(const kernels::ExecutionSpace& space, transport::Control& world,
                           const transport::PeerMemory* peers, transport::Communicator* communicator,
                           const std::vector<int>& hosts, std::int32_t train_ranks, std::int64_t gen_arena_bytes,
                           double seconds) {
  constexpr std::int64_t kDeviceProbeBytes = 256 << 20;
  Rates rates;
  const kernels::DeviceBuffer from(kDeviceProbeBytes);
  const kernels::DeviceBuffer to(kDeviceProbeBytes);
  rates.memory = memory_rate(space, world, from, to, true, seconds);
  const std::int32_t gen_ranks = world.size() - train_ranks;
  const bool is_train = world.rank() < train_ranks;
  if (peers != nullptr) {
    const std::int64_t bytes = std::min(kDeviceProbeBytes, gen_arena_bytes);
    std::byte* target = is_train ? peers->map(train_ranks + world.rank() % gen_ranks) : nullptr;
    for (int peer = train_ranks; target == nullptr && peer < world.size(); ++peer) {
      if (peer != world.rank()) target = peers->map(peer);
    }
    const auto store = [&](bool active) {
      const double took = best_time(world, seconds, [&] {
        if (active) kernels::copy_bytes(space, from.data(), target, bytes);
      });
      return static_cast<double>(bytes) / took;
    };
    const std::int64_t first = -world.max(std::int64_t{target != nullptr ? -world.rank() : -world.size()});
    if (first < world.size()) rates.pair_store = store(world.rank() == first);
    if (world.sum(std::int64_t{is_train && target == nullptr}) == 0) rates.all_stores = store(is_train);
  }
  if (communicator != nullptr) {
    std::vector<int> senders, receivers;
    for (int i = 0; i < std::min(train_ranks, gen_ranks); ++i) {
      senders.push_back(i);
      receivers.push_back(train_ranks + i);
    }
    rates.pair_message = measure_pairs(world, *communicator, {0}, {train_ranks}, kDeviceProbeBytes, seconds);
    rates.all_pairs = measure_pairs(world, *communicator, senders, receivers, kDeviceProbeBytes, seconds);
    rates.latency = 8.0 / measure_pairs(world, *communicator, {0}, {train_ranks}, 8, seconds / 10);
    if (hosts.back() != hosts.front()) {
      const auto [out, in] = between_hosts(hosts);
      rates.network =
          measure_pairs(world, *communicator, out, in, kDeviceProbeBytes, seconds) * static_cast<double>(out.size());
    }
  }
  rates.pair = std::max(rates.pair_store, rates.pair_message);
  return rates;
}

plan::Rates device_rates(const Rates& rates, const std::vector<int>& hosts, std::int64_t devices) {
  std::int64_t ranks_per_host = 0;
  for (int host : hosts) ranks_per_host = std::max<std::int64_t>(ranks_per_host, std::ranges::count(hosts, host));
  plan::Rates result;
  result.ranks_per_device = layout::round_up(ranks_per_host, devices) / devices;
  result.devices_per_domain = layout::round_up(ranks_per_host, result.ranks_per_device) / result.ranks_per_device;
  result.device_in = result.device_out = rates.pair;
  result.domain_in = result.domain_out = rates.network;
  result.memory = rates.memory * static_cast<double>(result.ranks_per_device);
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
