// Decides whether takers of a domain should feed each other.

#include <algorithm>

#include "plan/cost.hpp"
#include "plan/model.hpp"
#include "plan/traffic.hpp"

namespace refit::plan {
namespace {

using Site = Placement::Site;

/// Returns the seconds of the busiest port, of a device or a domain, under a plan's copies; 0 where rates are unknown.
double busiest_port_seconds(const Planner& planner, Rates rates) {
  const Placement& placement = planner.rules().placement;
  rates.memory = 0;
  return seconds_at_once(traffic(planner, placement, {.hash = false, .form = Form::stored}).loads, {rates, placement});
}

/// Returns the number of neighbouring ranks per domain where only the last domain may have fewer; else 0.
std::int64_t ranks_per_domain(const std::vector<Site>& sites) {
  std::vector<std::int64_t> runs;
  for (std::size_t rank = 0; rank < sites.size(); ++rank) {
    if (rank == 0 || sites[rank].domain != sites[rank - 1].domain) runs.push_back(0);
    ++runs.back();
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const bool last = i + 1 == runs.size();
    if (runs[i] != runs.front() && (!last || runs[i] > runs.front())) return 0;
  }
  return runs.empty() ? 0 : runs.front();
}

}  // namespace

std::int64_t choose_fan_out(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                            const Rates& rates, const Rules& rules) {
  constexpr double kWorthwhile = 0.95;
  const std::int64_t domain_ranks = ranks_per_domain(rules.placement.destination);
  const bool has_rates = std::max({rates.device_in, rates.device_out, rates.domain_in, rates.domain_out}) > 0;
  if (domain_ranks < 2 || rates.memory_is_shared || !has_rates) return 0;
  const auto seconds = [&](std::int64_t ranks) {
    Rules with_fan_out = rules;
    with_fan_out.domain_ranks = ranks;
    return busiest_port_seconds(Planner(tensors, source, destination, with_fan_out), rates);
  };
  const double without = seconds(0);
  const double with = seconds(domain_ranks);
  return with < kWorthwhile * without ? domain_ranks : 0;
}

}  // namespace refit::plan
