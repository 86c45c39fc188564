// Decides whether takers of a domain should feed each other.

#include <algorithm>
#include <map>
#include <set>

#include "plan/cost.hpp"
#include "plan/model.hpp"
#include "plan/traffic.hpp"

namespace refit::plan {
namespace {

/// Returns the seconds of the busiest port, of a device or a domain, or of a memory that ranks share, under a plan's
/// copies; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, Rates rates) {
  const Placement& placement = planner.rules().placement;
  if (!rates.memory_is_shared) rates.memory = 0;
  return seconds_at_once(traffic(planner, placement, {.hash = false, .form = Form::stored}).loads, {rates, placement});
}

}  // namespace

std::int64_t largest_domain(const Domains& domains) {
  std::map<std::int32_t, std::int64_t> ranks;
  std::int64_t largest = 0;
  for (const std::int32_t domain : domains) largest = std::max(largest, ++ranks[domain]);
  return largest;
}

FanOutRules choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                           const Rates& rates, const Rules& rules, Between between) {
  constexpr double kWorthwhile = 0.95;
  const bool has_rates = std::max({rates.device_in, rates.device_out, rates.domain_in, rates.domain_out}) > 0;
  if (!has_rates) return {};
  const auto seconds = [&](const FanOutRules& of) {
    Rules with_fan_out = rules;
    with_fan_out.fan_out = of;
    return busiest_port_seconds(Planner(tensors, source, destination, with_fan_out), rates);
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

}  // namespace refit::plan
