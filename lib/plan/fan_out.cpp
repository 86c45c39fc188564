// Decides whether takers of a domain should feed each other, and take from holders beside them first.

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "plan/cost.hpp"
#include "plan/model.hpp"
#include "plan/traffic.hpp"

namespace refit::plan {
namespace {

/// Returns the seconds of the busiest port, of a device or a domain, or of a memory that ranks share, under a plan's
/// copies, and what handing on adds; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, Rates rates, std::int64_t parts) {
  const Placement& placement = planner.rules().placement;
  if (!rates.memory_is_shared) rates.memory = 0;
  const Loads loads = traffic(planner, placement, {.hash = false, .form = Form::stored}).loads;
  const double seconds = seconds_at_once(loads, {rates, placement});
  return seconds + handing_on_seconds(loads, seconds, rates, parts);
}

}  // namespace

std::int64_t largest_domain(const Domains& domains) {
  std::map<std::int32_t, std::int64_t> ranks;
  std::int64_t largest = 0;
  for (const std::int32_t domain : domains) largest = std::max(largest, ++ranks[domain]);
  return largest;
}

FanOutRules any_fan_out(const Placement& placement) {
  Domains domains = domains_of(placement);
  const bool each_alone = largest_domain(domains) == 1;
  return {std::move(domains), each_alone};
}

FanOutRules choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                           const Rates& rates, const Rules& rules, Between between) {
  constexpr double kWorthwhile = 0.95;
  const bool has_rates = std::max({rates.device_in, rates.device_out, rates.domain_in, rates.domain_out}) > 0;
  if (!has_rates) return {};
  // One host has no port but its memory: fan-out could save casts there, at the price of ranks that wait for each
  // other.
  if (rates.memory_is_shared && rates.domain_in == 0 && rates.domain_out == 0) return {};
  const std::int64_t parts = HandedOn().parts(tensors);
  const auto seconds = [&](const FanOutRules& of) {
    Rules with_fan_out = rules;
    with_fan_out.fan_out = of;
    return busiest_port_seconds(Planner(tensors, source, destination, with_fan_out), rates, parts);
  };
  FanOutRules best;
  double least = seconds(best);
  const auto consider = [&](const FanOutRules& other) {
    const double with = seconds(other);
    if (with >= kWorthwhile * least) return;
    best = other;
    least = with;
  };
  const Domains domains = domains_of(rules.placement);
  if (largest_domain(domains) > 1) consider({domains, false});
  // Domains without ports of their own are as near each other as the ranks within them.
  const bool are_apart = between == Between::messages && rates.domain_in > 0 && rates.domain_out > 0;
  if (are_apart && std::set<std::int32_t>(domains.begin(), domains.end()).size() > 1) consider({domains, true});
  return best;
}

bool choose_near_domains(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                         const Rates& rates, const Rules& rules) {
  if (rates.device_out == 0 || rates.domain_in == 0 || rules.placement.destination.empty()) return true;
  // A holder sends no more than a box to each taker of its domain, which is as long as one box on a link so much
  // narrower.
  const Placement& placement = rules.placement;
  const bool has_near = std::ranges::any_of(placement.source, [&](const Placement::Site& site) {
    return std::ranges::count(placement.destination, site.domain, &Placement::Site::domain) > 0;
  });
  if (!has_near) return true;
  const auto takers = static_cast<double>(largest_domain(domains_of(rules.placement)));
  if (takers < 2 || rates.device_out >= takers * rates.domain_in) return true;
  const auto seconds = [&](bool near) {
    Rules of = rules;
    of.near_domains = near;
    return busiest_port_seconds(Planner(tensors, source, destination, of), rates, 1);
  };
  return seconds(true) <= seconds(false);
}

}  // namespace refit::plan
