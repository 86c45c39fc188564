#pragma once
// The links between hosts, as messages of all ranks of a host fill them. Other parts of a probe are in rates.hpp.

#include <cstdint>
#include <vector>

#include "transport/communicator.hpp"

namespace refit::transport {

/// Rates in bytes per second and direction, by host; empty where there is one host.
struct NetworkRates {
  std::vector<double> out;  ///< from a host to others, of all its ranks together
  std::vector<double> in;   ///< into a host from others, likewise

  double best() const;     ///< 0 where there is one host
  double slowest() const;  ///< likewise
  friend bool operator==(const NetworkRates&, const NetworkRates&) = default;
};

/// Returns the better of both, host by host.
NetworkRates best_of(const NetworkRates& a, const NetworkRates& b);

/// Time for which a link is filled. A shaper that lets 256 KiB through at once changes the rate of a link of 0.2 Gbit/s
/// by a fortieth in this time.
inline constexpr double kFilling = 0.4;

/// Messages of a probe between pairs of ranks, timed until the slowest pair has done. How long one takes decides how
/// often it is repeated: a slow link shows its rate at once.
struct PairMessages {
  Control& world;
  Communicator& communicator;
  int lanes;       ///< of the communicator, that executors use
  double seconds;  ///< spent on repeating a short measurement

  /// Returns the slowest pair's rate for `bytes` of each pair, in a part on each of the first `used` lanes. Collective.
  double rate_on(int used, const std::vector<int>& senders, const std::vector<int>& receivers,
                 std::int64_t bytes) const;
  /// Returns the slowest pair's rate on all lanes or on one, whichever is better. Collective.
  double rate(const std::vector<int>& senders, const std::vector<int>& receivers, std::int64_t bytes) const;
  /// Returns the seconds from the sending of a small message until its answer is there, at best. Collective.
  double round_trip(int one, int other) const;
};

/// Returns the bytes that a link of this rate carries long enough to show it: what a shaper lets through at once, and
/// what sockets hold, is a small part of them. At most `most`.
std::int64_t bytes_that_show(double rate, std::int64_t most, double seconds = kFilling);

/// Measures the links between hosts. First one rank of each host and one of another exchange small messages, hosts pair
/// by pair at the same time, until each has met each other one, or `kRounds` others. Hosts within a fifth of each other
/// are alike; for each kind the fastest host's link is filled by all ranks of two hosts, one to one, and each to each,
/// since every pair may have sockets or threads of its own. A message of each pair has at most `most_bytes`.
/// `hosts`: by rank, numbered in the order of their first ranks. Collective over `messages`' world.
NetworkRates measure_network(const PairMessages& messages, const std::vector<int>& hosts, std::int64_t most_bytes);

/// A host that sends, and one that receives.
struct HostPair {
  int from = 0, to = 0;
  friend bool operator==(const HostPair&, const HostPair&) = default;
};
/// Returns the pairs of hosts that meet in a round of a tournament (the circle method): all in rounds 0 to hosts - 2,
/// or hosts - 1 where one is left over each time.
std::vector<HostPair> pairs_of_round(int hosts, int round);

}  // namespace refit::transport
