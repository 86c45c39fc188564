// Decides whether takers of a domain should feed each other.

#include <algorithm>
#include <map>

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

Domains choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                       const Rates& rates, const Rules& rules) {
  constexpr double kWorthwhile = 0.95;
  const Domains domains = domains_of(rules.placement);
  const bool has_rates = std::max({rates.device_in, rates.device_out, rates.domain_in, rates.domain_out}) > 0;
  if (largest_domain(domains) < 2 || !has_rates) return {};
  const auto seconds = [&](const Domains& of) {
    Rules with_fan_out = rules;
    with_fan_out.domains = of;
    return busiest_port_seconds(Planner(tensors, source, destination, with_fan_out), rates);
  };
  return seconds(domains) < kWorthwhile * seconds({}) ? domains : Domains();
}

}  // namespace refit::plan
