#pragma once
// The probe: measures what the links and the memory of this job's machines really do. The bound's rates come from here.

#include <limits>
#include <vector>

#include "kernels/kernels.hpp"
#include "plan/cost.hpp"
#include "transport/communicator.hpp"
#include "transport/network_rates.hpp"
#include "transport/places.hpp"

namespace refit::transport {

/// Rates in bytes per second, per direction for links: each is the best that any mechanism reached that a refit may
/// use.
struct ProbedRates {
  double pair = 0;            ///< into or out of one rank's memory: the best of those below, on a host of `memory` too
  double pair_message = 0;    ///< one pair alone, send and receive, on one lane or on all
  double all_pairs = 0;       ///< every rank to its partner at once, per rank, send and receive
  double pair_store = 0;      ///< devices: one pair alone, a kernel's stores
  double pair_engine = 0;     ///< devices: one pair alone, copy engines
  double all_stores = 0;      ///< devices: every train rank at once, per rank
  NetworkRates network = {};  ///< the ranks of one host to those of another, all at once, together
  double messages = 0;        ///< hosts: between the ranks of one, all at once, together
  double memory = 0;          ///< copying: read + write of one host's ranks together, or of one rank's device
  double latency = 0;         ///< seconds that groups of messages wait for each other: hosts: a small message and its
                              ///< answer, as who has sent must hear of the receiver; devices: one small message
  double all_engines = 0;     ///< devices: as all_stores, copy engines
  // Devices, every rank at once, per rank: both ways of the links are busy.
  double both_stores = 0;    ///< a kernel's stores; only where all ranks have memory that others map
  double both_engines = 0;   ///< copy engines, likewise
  double both_messages = 0;  ///< send and receive
  /// Devices: bytes that copy engines bring to another device while the host enqueues one copy of a batch;
  /// kNoEngineBytes: they are slower than a kernel; 0: not measured.
  std::int64_t engine_bytes = 0;
};
inline constexpr std::int64_t kNoEngineBytes = std::numeric_limits<std::int64_t>::max();

/// Returns the better of both, rate by rate: rates are maxima, and other work of a machine can only hide one.
ProbedRates best_of(const ProbedRates& a, const ProbedRates& b);

/// The refit that a probe of hosts imitates, so that caches are as warm: the first ranks copy, as many bytes.
struct ProbedRun {
  std::int64_t senders = 1;
  std::int64_t bytes = 0;         ///< bytes that all of them store
  std::int64_t source_bytes = 0;  ///< bytes of the largest source, to read from
  DType from = DType::bf16, to = DType::bf16;
};

/// Measures for about `seconds` per rate. Collective over `world` and `communicator`, which span the same ranks.
/// `lanes`: of the communicator, that executors use.
ProbedRates measure_rates(const kernels::ExecutionSpace& space, Control& world, Communicator& communicator, int lanes,
                          const Places& places, const ProbedRun& run, double seconds);

/// Measures likewise on devices: the pair's rates are those of kernels and copy engines that store into a gen rank's
/// memory through `peers`, and of messages where there is a communicator. Rank r stores into the first other gen rank,
/// from r mod G on, that it reaches on another device, else into a train rank there, else on its own device. Rates
/// without such links stay 0. `places`: places_of(world). Overwrites gen's arenas, of which the smallest has
/// `gen_arena_bytes`.
ProbedRates measure_device_rates(const kernels::ExecutionSpace& space, Control& world, const PeerMemory* peers,
                                 Communicator* communicator, int lanes, const Places& places, const WorldMap& map,
                                 std::int64_t gen_arena_bytes, double seconds, std::int64_t probe_bytes = 256 << 20);

/// Returns the rates in the cost model's form: on hosts every rank is a device, a node is a domain, and its ranks share
/// its memory.
plan::Rates host_rates(const ProbedRates& rates);
/// Returns the same on devices, of which `ranks_per_device` ranks share one: a host's devices are one domain, which has
/// ports of its own only where there are several hosts.
plan::Rates device_rates(const ProbedRates& rates, std::int64_t ranks_per_device);

}  // namespace refit::transport
