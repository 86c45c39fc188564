#pragma once
// The lower bound that no schedule can beat, and the choice of fan-out.
//
// Cut every tensor by the shard boundaries of both sides, and of all engines of a side, into boxes, held by the source
// ranks H_b and needed by the destination ranks R_b. A box crosses a link in the narrowest form that any sender could
// give it: the smaller of both ends' widths, each value once. A device, or domain, that holds a box needs no link for
// it. The bound is the largest of the following, each for devices over the device's rate and for domains over the
// domain's:
// - ingress: of every one of gen's, each box that it needs and does not hold, once;
// - egress: each box leaves train once if any taker needs it over a link; the best split over the holders. For a set U
//   of devices the boxes that only U holds need at least their bytes / |U| on one of them; U runs over the holder sets
//   and their connected unions, which is exact for nested holder sets (Megatron's are);
//   Where domains' links differ, a set needs its bytes over the sum of its links' rates;
// - fan-out: all receptions of all takers, over the egress of all that can have the data, train's and gen's together:
//   receivers may forward to each other, across domains too;
// - memory: the bytes that every rank of a device stores, and one read of each box by the best split over holders
//   (hosts: of a node, whose ranks share the rate), staging not counted.
// So no plan's busiest port carries less, whichever ranks forward and cast.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plan/plan.hpp"

namespace refit::plan {

/// Rates in bytes per second. 0 is unknown; for a domain, 0 is the rate of its devices. On hosts every rank is a
/// device, a node is a domain, and a domain's ranks share `memory`.
struct Rates {
  double device_in = 0;
  double device_out = 0;
  double domain_in = 0;
  double domain_out = 0;
  double memory = 0;          ///< read + write
  double launch_seconds = 0;  ///< of one kernel launch; on hosts, of a group of messages and its answer
  double messages = 0;        ///< hosts: between the ranks of one, all together; 0 is half of `memory`
  bool memory_is_shared = false;
  /// By domain number, where domains' links differ; those above are then the best of them. Empty: all are alike.
  std::vector<double> each_domain_in = {}, each_domain_out = {};

  double into_domain(std::size_t domain) const { return of_domain(each_domain_in, domain, domain_in); }
  double out_of_domain(std::size_t domain) const { return of_domain(each_domain_out, domain, domain_out); }

 private:
  static double of_domain(const std::vector<double>& each, std::size_t domain, double all) {
    return domain < each.size() ? each[domain] : all;
  }
};

/// Bytes behind each term, and the seconds that they take.
struct Bound {
  /// Bytes that the busiest port carries at least.
  struct Links {
    std::int64_t ingress = 0, egress = 0, fanout = 0;
  };
  struct Terms {
    double ingress = 0, egress = 0, fanout = 0, memory = 0;
  };
  Links device, domain;
  std::int64_t memory = 0;  ///< of the busiest device, or node
  /// What the ports of domains carry at least, for links that differ: bytes by domain number.
  struct Domains {
    std::vector<std::int64_t> numbers;                    ///< of the domains that have ranks, ascending
    std::vector<double> entering;                         ///< by number
    std::map<std::vector<std::int64_t>, double> leaving;  ///< by the set of domains that hold them
    double received = 0;                                  ///< by all domains together
  } domains;
  Terms seconds;
  /// Sets the seconds; they are 0 where a rate is unknown.
  void time(const Rates& rates);
  /// Returns the largest term and its name.
  double total() const;
  std::string term() const;
};

/// Returns the bound for moving `tensors` (bound.cpp).
Bound lower_bound(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                  const Rates& rates, const Placement& placement);

/// Returns the number of ranks in the largest domain.
std::int64_t largest_domain(const Domains& domains);

/// Returns fan-out that was asked for though it does not pay: within domains or, where each has one rank, between them.
FanOutRules any_fan_out(const Placement& placement);

/// What brings bytes from one domain to another.
enum class Between : std::uint8_t { messages, mapped_memory };

/// Returns the fan-out that pays, of the domains in which the destination ranks are placed: each way is taken where it
/// keeps the busiest port, of a device or a domain (on hosts also the memory), at least a twentieth less busy than the
/// one before it: none, within domains, and handing on between domains that have ports of their own and send messages.
/// For the executor that fans out: `direct`, which sends the form that the destination stores (fan_out.cpp). `rules`:
/// of the plan, whose fan-out does not count; every rank has a place.
FanOutRules choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                           const Rates& rates, const Rules& rules, Between between = Between::messages);

/// Returns whether takers should take from holders in their domain, where there are any: they should, unless the
/// busiest port would be less busy if those shared the sending with holders elsewhere. That is so where a holder feeds
/// many takers beside it, whose domain's link is nearly as wide as a device's port. Rates that are unknown keep bytes
/// near. `rules`: of the plan, whose near_domains does not count.
bool choose_near_domains(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                         const Rates& rates, const Rules& rules);

}  // namespace refit::plan
