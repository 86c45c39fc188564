#include "transport/rates.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "core/clock.hpp"
#include "kernels/engine_copies.hpp"
#include "kernels/memory.hpp"
#include "transport/transfers.hpp"

namespace refit::transport {
namespace {

constexpr std::int64_t kMessageBytes = 32 << 20;  ///< between hosts
/// Largest copy on hosts: several times a cache, of which a smaller one, repeated, would find its source in part.
constexpr std::int64_t kHostBytes = 256 << 20;
/// Most of a host's memory that the probe takes.
constexpr std::int64_t kHostMemory = 1LL << 30;
constexpr std::int64_t kEngineProbes = 4;  ///< times that the probed memory is copied, where it is large
/// Least memory in which the host's time for a copy is measured, and the size of such copies: the host's time decides.
constexpr std::int64_t kLeastEngineProbe = 64 << 20;
constexpr std::int64_t kHostBoundBytes = 64 << 10;
constexpr double kAsFast = 0.97;  ///< of a kernel's rate: a kernel has other work to do at the same time
/// Most repetitions of a copy within one launch, where a run's memory is small.
constexpr std::int64_t kRepeats = 64;

/// Repeats `once` on all ranks until the slowest has spent `seconds`; returns the seconds of the best repetition, each
/// as the maximum over ranks. The first repetition only warms up.
template <typename Once>
double best_time(Control& world, double seconds, const Once& once) {
  double best = 0;
  double spent = 0;
  for (int repetition = 0; repetition < 4 || spent < seconds; ++repetition) {
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

/// Returns the number of ranks of `ranks` on the host that has most of them.
std::int64_t most_of_a_host(const std::vector<int>& hosts, int ranks) {
  std::int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank)
    most = std::max<std::int64_t>(
        most, std::count(hosts.begin(), hosts.begin() + ranks, hosts[static_cast<std::size_t>(rank)]));
  return most;
}

/// Pairs of ranks within hosts: of each, one of the first half of its ranks and one of the second.
struct Halves {
  std::vector<int> first, second;
  std::int64_t most = 0;  ///< pairs of a host
};
Halves halves(const std::vector<int>& hosts) {
  std::map<int, std::vector<int>> ranks;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) ranks[hosts[rank]].push_back(static_cast<int>(rank));
  Halves result;
  for (const auto& [host, all] : ranks) {
    const std::size_t half = all.size() / 2;
    for (std::size_t i = 0; i < half; ++i) {
      result.first.push_back(all[i]);
      result.second.push_back(all[half + i]);
    }
    result.most = std::max(result.most, static_cast<std::int64_t>(half));
  }
  return result;
}

/// Returns the gen rank, among those that are `reached`, to which the rate from `rank` is measured: one on another
/// device where possible; -1: none is reached.
template <typename Reached>
int partner_of(int rank, const Places& places, const WorldMap& map, const Reached& reached) {
  const auto device = [&](int each) { return places.devices[static_cast<std::size_t>(each)]; };
  int partner = -1;
  for (const Side side : {Side::destination, Side::source}) {
    const int ranks = side == Side::destination ? map.destination : map.source;
    for (int i = 0; i < ranks; ++i) {
      const int peer = map.world_rank(side, Rank{(rank + i) % ranks});
      if (peer == rank || !reached(peer)) continue;
      if (device(peer) != device(rank)) return peer;
      if (partner < 0) partner = peer;
    }
  }
  return partner;
}

/// Times copies by the first `active` ranks as refits are timed: until all have done theirs. Returns the bytes that the
/// busiest host reads and stores per second.
double host_rate(const kernels::ExecutionSpace& space, Control& world, const Places& places, int active,
                 const Repeated& copies, double seconds) {
  const double took = best_time(world, seconds, [&] {
    if (world.rank() < active) copies.run(space);
    world.barrier();
  });
  return static_cast<double>(copies.bytes * most_of_a_host(places.hosts, active)) / took;
}

void run(const kernels::EngineTable& table, const kernels::ExecutionSpace& space) {
  table.begin(space);
  table.finish(space);
  space.fence();
}

}  // namespace

ProbedRates best_of(const ProbedRates& a, const ProbedRates& b) {
  const auto least = [](double one, double other) { return one > 0 && other > 0 ? std::min(one, other) : one + other; };
  ProbedRates best;
  for (double ProbedRates::*rate :
       {&ProbedRates::pair, &ProbedRates::pair_message, &ProbedRates::all_pairs, &ProbedRates::pair_store,
        &ProbedRates::pair_engine, &ProbedRates::all_stores, &ProbedRates::messages, &ProbedRates::memory,
        &ProbedRates::all_engines, &ProbedRates::both_stores, &ProbedRates::both_engines, &ProbedRates::both_messages})
    best.*rate = std::max(a.*rate, b.*rate);
  best.network = best_of(a.network, b.network);
  best.latency = least(a.latency, b.latency);
  best.engine_bytes = a.engine_bytes > 0 ? a.engine_bytes : b.engine_bytes;
  return best;
}

ProbedRates measure_rates(const kernels::ExecutionSpace& space, Control& world, Communicator& communicator, int lanes,
                          const Places& places, const ProbedRun& run, double seconds) {
  ProbedRates rates;
  const auto ranks = static_cast<std::int64_t>(world.size());
  const std::int64_t room = kHostMemory / 2 / most_of_a_host(places.hosts, world.size());
  // `sent` is the bytes that a sender stores if only senders work, `shared` the bytes of each rank if all share the
  // work.
  const std::int64_t sent = std::clamp<std::int64_t>(run.bytes / run.senders, 64, kHostBytes);
  const std::int64_t shared = std::clamp<std::int64_t>(run.bytes / ranks, 64, kHostBytes);
  const std::int64_t size = std::min(room, world.rank() < run.senders ? std::max(sent, shared) : shared);
  // Weights for several gen ranks are read several times, and may be in a cache from the second time on.
  const kernels::DeviceBuffer from(std::clamp<std::int64_t>(run.source_bytes, 64, size)), to(size);
  for (const auto& buffer : {from, to}) kernels::poison(space, buffer.data(), buffer.bytes());  // touched
  space.fence();
  const auto copies = [&](std::int64_t total, std::pair<DType, DType> types = {DType::u8, DType::u8}) {
    return Repeated(space, {from.data(), from.bytes()}, {to.data(), to.bytes()}, total, types);
  };
  const int senders = static_cast<int>(run.senders);
  rates.memory = host_rate(space, world, places, senders, copies(sent), seconds);
  if (run.from != run.to && is_castable(run.from) && is_castable(run.to))
    rates.memory =
        std::max(rates.memory, host_rate(space, world, places, senders, copies(sent, {run.from, run.to}), seconds));
  rates.memory = std::max(rates.memory, host_rate(space, world, places, world.size(), copies(shared), seconds));
  rates.pair = rates.memory / 2;
  if (world.size() < 2) return rates;

  rates.memory = std::max(rates.memory, host_rate(space, world, places, 1, copies(sent), seconds));
  const PairMessages messages{world, communicator, lanes, seconds};
  rates.network = measure_network(messages, places.hosts, kMessageBytes);
  const std::int64_t near = std::clamp<std::int64_t>(sent, 1 << 20, kMessageBytes);
  const Halves within = halves(places.hosts);
  if (!within.first.empty())
    rates.messages = messages.rate(within.first, within.second, near) * static_cast<double>(within.most);
  const bool one_host = rates.network.out.empty();
  const int half = world.size() / 2;
  std::vector<int> first, second;
  for (int i = 0; i < half; ++i) {
    first.push_back(i);
    second.push_back(half + i);
  }
  /// Of each of so many pairs; between hosts as many as show the slowest link's rate.
  const auto bytes_of = [&](std::int64_t pairs) {
    if (one_host) return near;
    return std::max<std::int64_t>(1, bytes_that_show(rates.network.slowest(), pairs * kMessageBytes) / pairs);
  };
  rates.pair_message = messages.rate({0}, {world.size() - 1}, bytes_of(1));
  rates.all_pairs = one_host ? rates.messages / half : messages.rate(first, second, bytes_of(half));
  rates.latency = messages.round_trip(0, world.size() - 1);
  // Within a host all other ranks may store into one rank's memory at once; messages there are read and stored too.
  if (one_host) rates.memory = std::max({rates.memory, 2 * rates.pair_message, 2 * rates.messages});
  rates.pair = std::max({rates.memory / 2, rates.pair_message, rates.all_pairs});
  return rates;
}

ProbedRates measure_device_rates(const kernels::ExecutionSpace& space, Control& world, const PeerMemory* peers,
                                 Communicator* communicator, int lanes, const Places& places, const WorldMap& map,
                                 std::int64_t gen_arena_bytes, double seconds, std::int64_t probe_bytes) {
  ProbedRates rates;
  const std::int64_t bytes = std::min(probe_bytes, std::max<std::int64_t>(1, gen_arena_bytes));  // as of the run
  const std::int64_t times = std::clamp<std::int64_t>(probe_bytes / bytes, 1, kRepeats);
  const kernels::DeviceBuffer from(probe_bytes);
  const int self = world.rank();
  const auto sharing = static_cast<double>(places.ranks_per_device());
  const bool is_train = map.rank(Side::source, self).has_value();
  /// Returns the seconds of the best repetition.
  const auto timed = [&](bool active, const auto& copy) {
    return best_time(world, seconds, [&] {
      if (active) copy();
    });
  };
  {
    const kernels::DeviceBuffer to(probe_bytes);
    // All of the memory is copied once, and then a part that a cache may hold, repeatedly.
    for (const auto& [size, rounds] : {std::pair(probe_bytes, std::int64_t{1}), {bytes, times}}) {
      const Repeated copies(space, {from.data(), size}, {to.data(), size}, size * rounds);
      const auto kernel = [&](bool active) { return timed(active, [&] { copies.run(space); }); };
      const auto engine = [&](bool active) {
        return timed(active, [&] { kernels::transfer(from.data(), to.data(), size, rounds); });
      };
      const auto rate = [&](double took) { return static_cast<double>(copies.bytes) / took; };
      rates.memory = std::max({rates.memory, rate(kernel(true)), rate(engine(true))});
      // Processes that take turns on a device lose time by that: one alone gets all of it.
      if (sharing > 1)
        rates.memory = std::max(rates.memory, rate(std::min(kernel(self == 0), engine(self == 0))) / sharing);
    }
  }
  const auto crosses = [&](int a, int b) {
    return places.devices[static_cast<std::size_t>(a)] != places.devices[static_cast<std::size_t>(b)];
  };
  if (peers != nullptr) {
    const int partner = partner_of(self, places, map, [&](int peer) { return peers->map(peer) != nullptr; });
    std::byte* target = partner < 0 ? nullptr : peers->map(partner);
    // Large enough that the first and the last copy's way does not count, unless the run is small, too.
    const std::int64_t total = bytes < probe_bytes ? bytes * times : kEngineProbes * bytes;
    const auto rate = [&](double seconds_of_all) { return static_cast<double>(total) / seconds_of_all; };
    const Repeated copies(space, {from.data(), bytes}, {target, target == nullptr ? 0 : bytes}, total);
    const auto store = [&](bool active) { return rate(timed(active, [&] { copies.run(space); })); };
    const auto engine_of = [&](bool active, std::int64_t size) {
      const kernels::EngineTable table = engine_copies(from.data(), target, bytes, size, total);
      return rate(timed(active, [&] { run(table, space); }));
    };
    const auto engine = [&](bool active) { return engine_of(active, kernels::EngineSizes().most_bytes); };
    // The first rank whose partner is on another device measures; else the first that has a partner.
    const int none = 2 * world.size();
    const int turn = partner < 0 ? none : crosses(self, partner) ? self : world.size() + self;
    const std::int64_t first = -world.max(std::int64_t{-turn});
    if (first < none) rates.pair_store = store(turn == first);
    if (first < none) rates.pair_engine = engine(turn == first);
    if (first < world.size() && bytes >= kLeastEngineProbe && kernels::EngineTable::is_available()) {
      const double of_each = static_cast<double>(kHostBoundBytes) / engine_of(turn == first, kHostBoundBytes);
      const bool is_slower = rates.pair_engine < kAsFast * rates.pair_store;
      rates.engine_bytes = is_slower ? kNoEngineBytes : static_cast<std::int64_t>(of_each * rates.pair_engine);
    }
    if (world.sum(std::int64_t{is_train && target == nullptr}) == 0) {
      rates.all_stores = store(is_train);
      rates.all_engines = engine(is_train);
      const bool within = is_train && (target == nullptr || !crosses(self, partner));
      if (world.sum(std::int64_t{within}) == 0) rates.pair = std::max(rates.all_stores, rates.all_engines);
    }
    if (world.sum(std::int64_t{partner < 0 || !crosses(self, partner)}) == 0) {
      rates.both_stores = store(true);
      rates.both_engines = engine(true);
    }
  }
  if (communicator != nullptr && world.size() > 1) {
    const PairMessages messages{world, *communicator, lanes, seconds};
    // Colocated ranks send to their neighbours: what they have themselves costs no message.
    const int shift = map.colocated ? 1 : 0;
    std::vector<int> senders, receivers;
    for (int i = 0; i < std::min(map.source, map.destination); ++i) {
      senders.push_back(i);
      receivers.push_back(map.world_rank(Side::destination, Rank{(i + shift) % map.destination}));
    }
    if (map.colocated && map.destination == 1) senders.front() = 1;  // the first that is a train rank alone
    std::pair<int, int> alone{senders.front(), receivers.front()};
    for (int rank = map.source - 1; rank >= 0; --rank) {
      const int partner = partner_of(rank, places, map, [](int) { return true; });
      if (partner < 0) continue;
      if (crosses(rank, partner)) alone = {rank, partner};
    }
    rates.pair_message = messages.rate({alone.first}, {alone.second}, probe_bytes);
    rates.all_pairs = messages.rate(senders, receivers, probe_bytes);
    std::vector<int> all_senders = senders, all_receivers = receivers;
    all_senders.insert(all_senders.end(), receivers.begin(), receivers.end());
    all_receivers.insert(all_receivers.end(), senders.begin(), senders.end());
    rates.both_messages = messages.rate(all_senders, all_receivers, probe_bytes);
    // What a launch costs: one way, of which the sender's end is no shorter than the receiver's.
    rates.latency = 8.0 / messages.rate_on(1, {alone.first}, {alone.second}, 8);
    rates.network = measure_network(messages, places.hosts, probe_bytes);
  }
  rates.pair = std::max(
      {rates.pair, rates.pair_store, rates.pair_engine, rates.pair_message, rates.both_stores, rates.both_engines});
  return rates;
}

plan::Rates device_rates(const ProbedRates& rates, std::int64_t ranks_per_device) {
  plan::Rates result;
  result.device_in = result.device_out = rates.pair;
  result.domain_in = result.domain_out = rates.network.best();
  if (rates.network.slowest() < rates.network.best()) {
    result.each_domain_in = rates.network.in;
    result.each_domain_out = rates.network.out;
  }
  result.memory = rates.memory * static_cast<double>(ranks_per_device);
  result.launch_seconds = rates.latency;
  return result;
}

plan::Rates host_rates(const ProbedRates& rates) {
  plan::Rates result = device_rates(rates, 1);
  result.memory_is_shared = true;
  result.messages = rates.messages;
  return result;
}

}  // namespace refit::transport
