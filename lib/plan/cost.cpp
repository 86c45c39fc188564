#include "plan/cost.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace refit::plan {
namespace {

double over(double bytes, double rate) { return rate > 0 ? bytes / rate : 0; }

}  // namespace

std::int64_t Traffic::forwarded() const {
  return std::accumulate(forwarded_out.begin(), forwarded_out.end(), std::int64_t{0});
}

std::int64_t Traffic::egress_max() const {
  std::int64_t result = forwarded_out.empty() ? 0 : *std::max_element(forwarded_out.begin(), forwarded_out.end());
  for (const auto& row : matrix) result = std::max(result, std::accumulate(row.begin(), row.end(), std::int64_t{0}));
  return result;
}

std::int64_t Traffic::ingress_max() const {
  std::int64_t result = 0;
  for (std::size_t column = 0; !matrix.empty() && column < matrix.front().size(); ++column) {
    std::int64_t sum = forwarded_in[column];
    for (const auto& row : matrix) sum += row[column];
    result = std::max(result, sum);
  }
  return result;
}

Traffic traffic(const Planner& planner, const std::vector<Tensor>& model_tensors) {
  const auto sources = static_cast<std::size_t>(planner.source().ranks());
  const auto destinations = static_cast<std::size_t>(planner.destination().ranks());
  Traffic result;
  result.matrix.assign(sources, std::vector<std::int64_t>(destinations, 0));
  result.stage_ingress.assign(static_cast<std::size_t>(planner.source().stages()),
                              std::vector<std::int64_t>(destinations, 0));
  result.forwarded_out.assign(destinations, 0);
  result.forwarded_in.assign(destinations, 0);
  planner.for_each_copy([&](const Copy& copy) {
    const auto from = static_cast<std::size_t>(to_int(copy.source.rank));
    const auto to = static_cast<std::size_t>(to_int(copy.destination.rank));
    const std::int64_t bytes = copy.wire_bytes();
    result.bytes += bytes;
    ++result.copies;
    result.hash += hash(copy, model_tensors[static_cast<std::size_t>(copy.tensor)].name);
    if (copy.fan_out == FanOut::forwarded) {
      result.forwarded_out[from] += bytes;
      result.forwarded_in[to] += bytes;
      return;
    }
    result.matrix[from][to] += bytes;
    result.stage_ingress[static_cast<std::size_t>(planner.source().stage(copy.source.rank))][to] += bytes;
  });
  return result;
}

ModelSeconds model_seconds(const Bound& bound, const Traffic& traffic, const Schedule& schedule, const Rates& rates) {
  ModelSeconds model;
  const double base = bound.total();
  if (schedule.stages_in_flight > 0) {
    double serial = 0;
    for (const auto& ingress : traffic.stage_ingress) {
      serial += over(static_cast<double>(*std::max_element(ingress.begin(), ingress.end())), rates.device_in);
    }
    const double in_flight = static_cast<double>(
        std::min<std::int64_t>(schedule.stages_in_flight, static_cast<std::int64_t>(traffic.stage_ingress.size())));
    model.schedule = std::max(0.0, serial / in_flight - base);
  }
  // Packing reads and writes every staged byte once more; it shares the memory with the transfer itself.
  model.staging = over(2.0 * static_cast<double>(schedule.staged_bytes), rates.memory);
  model.latency = static_cast<double>(schedule.serial_steps) * rates.launch_seconds;
  model.total = base + model.staging + model.schedule + model.latency;
  const std::array<std::pair<double, const char*>, 3> extra{
      {{model.staging, "staging"}, {model.schedule, "schedule"}, {model.latency, "latency"}}};
  const auto most = std::max_element(extra.begin(), extra.end());
  model.term = most->first > base ? most->second : bound.term();
  return model;
}

}  // namespace refit::plan
