#include "transport/network_rates.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "core/clock.hpp"
#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "transport/location.hpp"
#include "transport/transfers.hpp"

namespace refit::transport {
namespace {

/// A repetition that takes longer counts from the first one on, and is not repeated.
constexpr double kLong = 0.1;
constexpr std::int64_t kLeastBytes = 4 << 20;
constexpr std::int64_t kWarmBytes = 256 << 10;  ///< connects, and leaves a shaper nothing to let through at once
constexpr std::int64_t kFirstBytes = 3 << 20;   ///< of the first look at a link
constexpr double kAlike = 0.8;
constexpr int kRounds = 8;

/// Links of both directions of all hosts, as one rank of each sees them.
class Looks {
 public:
  Looks(const PairMessages& messages, const std::vector<int>& leaders) : messages_(messages), leaders_(leaders) {
    rates_.out.assign(leaders.size(), 0);
    rates_.in.assign(leaders.size(), 0);
  }

  /// Measures one way of the pairs, all at once, each by itself.
  void look(const std::vector<HostPair>& pairs) {
    std::vector<int> senders, receivers;
    for (const HostPair& pair : pairs) {
      senders.push_back(leaders_[static_cast<std::size_t>(pair.from)]);
      receivers.push_back(leaders_[static_cast<std::size_t>(pair.to)]);
    }
    const bool takes_part = std::ranges::count(senders, messages_.world.rank()) > 0 ||
                            std::ranges::count(receivers, messages_.world.rank()) > 0;
    const kernels::DeviceBuffer buffer = touched(takes_part ? kFirstBytes : 1);
    Posts warm(messages_.communicator, 1, senders, receivers, buffer.data(), buffer.data(), kWarmBytes);
    Posts posts(messages_.communicator, 1, senders, receivers, buffer.data(), buffer.data(), kFirstBytes);
    warm.run();
    double spent = 0;
    for (int repetition = 0; repetition < 3 && spent < kLong; ++repetition) {
      messages_.world.barrier();
      const double start = now();
      posts.run();
      const std::vector<double> took = gather_all(messages_.world, now() - start);
      spent += *std::ranges::max_element(took);
      for (const HostPair& pair : pairs) {
        const double slower = std::max(took[at(pair.from)], took[at(pair.to)]);
        const double rate = static_cast<double>(kFirstBytes) / slower;
        double& out = rates_.out[static_cast<std::size_t>(pair.from)];
        double& in = rates_.in[static_cast<std::size_t>(pair.to)];
        out = std::max(out, rate);
        in = std::max(in, rate);
      }
    }
  }
  const NetworkRates& rates() const { return rates_; }

 private:
  std::size_t at(int host) const { return static_cast<std::size_t>(leaders_[static_cast<std::size_t>(host)]); }

  const PairMessages& messages_;
  const std::vector<int>& leaders_;
  NetworkRates rates_;
};

/// Fills links between pairs of hosts, each pair once.
class Fills {
 public:
  Fills(const PairMessages& messages, const std::vector<int>& hosts, std::int64_t most_bytes)
      : messages_(messages), most_bytes_(most_bytes) {
    ranks_.resize(static_cast<std::size_t>(*std::ranges::max_element(hosts)) + 1);
    for (std::size_t rank = 0; rank < hosts.size(); ++rank)
      ranks_[static_cast<std::size_t>(hosts[rank])].push_back(static_cast<int>(rank));
  }

  /// Returns the rate from one host to another. `seen`: what is known of it.
  double fill(const HostPair& pair, double seen) {
    const auto [entry, is_new] = known_.try_emplace({pair.from, pair.to}, 0.0);
    if (!is_new) return entry->second;
    const std::vector<int>& from = ranks_[static_cast<std::size_t>(pair.from)];
    const std::vector<int>& to = ranks_[static_cast<std::size_t>(pair.to)];
    const std::size_t fewer = std::min(from.size(), to.size());
    double best = rate({from.begin(), from.begin() + static_cast<std::ptrdiff_t>(fewer)},
                       {to.begin(), to.begin() + static_cast<std::ptrdiff_t>(fewer)}, seen);
    std::vector<int> senders, receivers;
    for (const int sender : from) {
      for (const int receiver : to) {
        senders.push_back(sender);
        receivers.push_back(receiver);
      }
    }
    if (senders.size() > 1) best = std::max(best, rate(senders, receivers, std::max(seen, best)));
    return entry->second = best;
  }

 private:
  double rate(const std::vector<int>& senders, const std::vector<int>& receivers, double seen) const {
    const auto pairs = static_cast<std::int64_t>(senders.size());
    const std::int64_t bytes = std::min(most_bytes_, bytes_that_show(seen, pairs * most_bytes_) / pairs);
    return messages_.rate(senders, receivers, std::max<std::int64_t>(1, bytes)) * static_cast<double>(pairs);
  }

  const PairMessages& messages_;
  std::int64_t most_bytes_;
  std::vector<std::vector<int>> ranks_;  ///< by host
  std::map<std::pair<int, int>, double> known_;
};

int largest_at(const std::vector<double>& values, int except) {
  int best = -1;
  for (int i = 0; i < static_cast<int>(values.size()); ++i) {
    if (i != except && (best < 0 || values[static_cast<std::size_t>(i)] > values[static_cast<std::size_t>(best)]))
      best = i;
  }
  return best;
}

/// Replaces what was seen of each host by what fills the link of the fastest of its kind. `partner`: a host's other
/// end.
template <typename Partner, typename Fill>
std::vector<double> filled(const std::vector<double>& seen, const Partner& partner, const Fill& fill) {
  std::vector<int> order(seen.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int host) { return seen[static_cast<std::size_t>(host)]; });
  std::vector<double> result(seen.size());
  double first = 0, rate = 0;  // of the kind
  for (const int host : order) {
    const double own = seen[static_cast<std::size_t>(host)];
    if (first == 0 || own < kAlike * first) {
      first = own;
      rate = fill(host, partner(host), own);
    }
    result[static_cast<std::size_t>(host)] = rate;
  }
  return result;
}

}  // namespace

double NetworkRates::best() const {
  return out.empty() ? 0 : std::max(*std::ranges::max_element(out), *std::ranges::max_element(in));
}

double NetworkRates::slowest() const {
  return out.empty() ? 0 : std::min(*std::ranges::min_element(out), *std::ranges::min_element(in));
}

NetworkRates best_of(const NetworkRates& a, const NetworkRates& b) {
  if (a.out.empty() || b.out.empty()) return a.out.empty() ? b : a;
  NetworkRates best = a;
  for (const auto& [to, from] : {std::pair(&best.out, &b.out), {&best.in, &b.in}})
    for (std::size_t host = 0; host < to->size(); ++host) (*to)[host] = std::max((*to)[host], (*from)[host]);
  return best;
}

double PairMessages::rate_on(int used, const std::vector<int>& senders, const std::vector<int>& receivers,
                             std::int64_t bytes) const {
  const bool takes_part =
      std::ranges::count(senders, communicator.rank()) > 0 || std::ranges::count(receivers, communicator.rank()) > 0;
  const kernels::DeviceBuffer buffer = touched(takes_part ? bytes : 1);
  Posts warm(communicator, used, senders, receivers, buffer.data(), buffer.data(), std::min(bytes, kWarmBytes));
  Posts posts(communicator, used, senders, receivers, buffer.data(), buffer.data(), bytes);
  warm.run();
  double best = 0, spent = 0;
  for (int repetition = 0; repetition < 4 || spent < seconds; ++repetition) {
    world.barrier();
    const double start = now();
    posts.run();
    if (senders.size() > 1) world.barrier();  // together ends when the last has done
    const double took = world.max(now() - start);
    if (repetition == 0 && took < kLong) continue;
    spent += took;
    best = best == 0 ? took : std::min(best, took);
    if (took >= kLong) break;
  }
  return static_cast<double>(bytes) / best;
}

double PairMessages::rate(const std::vector<int>& senders, const std::vector<int>& receivers,
                          std::int64_t bytes) const {
  const double on_all = rate_on(lanes, senders, receivers, bytes);
  if (lanes == 1 || static_cast<double>(bytes) >= kLong * on_all) return on_all;
  return std::max(on_all, rate_on(1, senders, receivers, bytes));
}

double PairMessages::round_trip(int one, int other) const {
  constexpr std::int64_t kBytes = 8;
  const kernels::DeviceBuffer buffer = touched(kBytes);
  const bool is_one = communicator.rank() == one;
  const bool takes_part = is_one || communicator.rank() == other;
  Posts there(communicator, 1, {one}, {other}, buffer.data(), buffer.data(), kBytes);
  Posts back(communicator, 1, {other}, {one}, buffer.data(), buffer.data(), kBytes);
  double best = 0, spent = 0;
  for (int repetition = 0; repetition < 10 || spent < seconds; ++repetition) {
    world.barrier();
    const double start = now();
    if (takes_part) {
      there.run();
      back.run();
    }
    const double took = world.max(is_one ? now() - start : 0);
    spent += std::max(took, 1e-6);
    if (repetition > 0) best = best == 0 ? took : std::min(best, took);
  }
  return best;
}

std::int64_t bytes_that_show(double rate, std::int64_t most, double seconds) {
  const double bytes = std::min(rate * seconds, static_cast<double>(most));
  return std::min(most, std::max(kLeastBytes, static_cast<std::int64_t>(bytes)));
}

std::vector<HostPair> pairs_of_round(int hosts, int round) {
  const int seats = hosts + hosts % 2;  // an odd one sits out
  std::vector<HostPair> pairs;
  const auto seat = [&](int i) { return i == 0 ? 0 : 1 + (i - 1 + round) % (seats - 1); };
  for (int i = 0; i < seats / 2; ++i) {
    const HostPair pair{seat(i), seat(seats - 1 - i)};
    if (std::max(pair.from, pair.to) < hosts)
      pairs.push_back({std::min(pair.from, pair.to), std::max(pair.from, pair.to)});
  }
  return pairs;
}

NetworkRates measure_network(const PairMessages& messages, const std::vector<int>& hosts, std::int64_t most_bytes) {
  const int count = *std::ranges::max_element(hosts) + 1;
  if (count < 2) return {};
  std::vector<int> leaders;
  for (int host = 0; host < count; ++host)
    leaders.push_back(static_cast<int>(std::ranges::find(hosts, host) - hosts.begin()));
  Looks looks(messages, leaders);
  for (int round = 0; round < std::min(kRounds, count - 1 + count % 2); ++round) {
    std::vector<HostPair> pairs = pairs_of_round(count, round);
    looks.look(pairs);
    for (HostPair& pair : pairs) std::swap(pair.from, pair.to);
    looks.look(pairs);
  }
  const NetworkRates& seen = looks.rates();
  Fills fills(messages, hosts, most_bytes);
  NetworkRates result;
  result.out = filled(
      seen.out, [&](int host) { return largest_at(seen.in, host); },
      [&](int host, int other, double rate) {
        return fills.fill({host, other}, rate);
      });
  result.in = filled(
      seen.in, [&](int host) { return largest_at(seen.out, host); },
      [&](int host, int other, double rate) {
        return fills.fill({other, host}, rate);
      });
  return result;
}

}  // namespace refit::transport
