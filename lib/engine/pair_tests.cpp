#include "engine/pair_tests.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.hpp"
#include "transport/network_rates.hpp"

namespace refit::engine {

using transport::Flow;
using transport::Mechanism;

namespace {

constexpr double kAlike = 0.9;

bool crosses(const std::vector<int>& hosts, const Flow& flow) {
  return hosts[static_cast<std::size_t>(flow.from)] != hosts[static_cast<std::size_t>(flow.to)];
}

}  // namespace

std::vector<std::vector<Flow>> groups_of_pairs(const std::vector<int>& hosts, bool alone) {
  const int ranks = static_cast<int>(hosts.size());
  std::vector<std::vector<Flow>> groups;
  for (int round = 0; round < ranks - 1 + ranks % 2; ++round) {
    std::vector<Flow> within, between;
    // The tournament is that of hosts, whoever plays it.
    for (const transport::HostPair& pair : transport::pairs_of_round(ranks, round)) {
      const Flow flow{pair.from, pair.to};
      if (alone) {
        groups.push_back({flow});
      } else {
        (crosses(hosts, flow) ? between : within).push_back(flow);
      }
    }
    for (const auto& group : {within, between})
      if (!group.empty()) groups.push_back(group);
  }
  return groups;
}

report::PairMatrix measure_matrix(transport::PairRates& pairs, const std::vector<int>& hosts, const PairTest& test) {
  const std::size_t ranks = hosts.size();
  report::PairMatrix matrix{
      test.both_ways ? "both_ways" : "one_way",          name(test.mechanism), test.alone, test.bytes, 0,
      {ranks, std::vector<std::optional<double>>(ranks)}};
  const auto measure = [&](std::vector<Flow> flows) {
    std::erase_if(flows, [&](const Flow& flow) { return !pairs.serves(test.mechanism, flow); });
    if (flows.empty()) return;
    const bool between = crosses(hosts, flows.front());
    if (between) matrix.bytes_between_hosts = test.bytes_between_hosts;
    const std::int64_t bytes = between ? test.bytes_between_hosts : test.bytes;
    const std::vector<double> rates = pairs.rates(test.mechanism, flows, bytes);
    for (std::size_t i = 0; i < flows.size(); ++i)
      matrix.rates[static_cast<std::size_t>(flows[i].from)][static_cast<std::size_t>(flows[i].to)] = rates[i];
  };
  for (const std::vector<Flow>& there : groups_of_pairs(hosts, test.alone)) {
    std::vector<Flow> back;
    for (const Flow& flow : there) back.push_back({flow.to, flow.from});
    if (test.both_ways) {
      std::vector<Flow> both = there;
      both.insert(both.end(), back.begin(), back.end());
      measure(both);
    } else {
      measure(there);
      measure(back);
    }
  }
  return matrix;
}

std::vector<report::SizeRow> measure_sizes(transport::PairRates& pairs, const std::string& pair, const Flow& flow,
                                           const std::vector<Mechanism>& mechanisms,
                                           const std::vector<std::int64_t>& sizes, double most_seconds,
                                           std::vector<std::string>& notes) {
  std::vector<report::SizeRow> rows;
  for (const Mechanism mechanism : mechanisms) {
    if (!pairs.serves(mechanism, flow)) continue;
    double rate = 0;
    for (const std::int64_t bytes : sizes) {
      if (rate > 0 && static_cast<double>(bytes) > rate * most_seconds) {
        notes.push_back(
            fmt::format("{} of {} and more from rank {} to {}: not measured, each would take longer than {}",
                        name(mechanism), bytes_text(bytes), flow.from, flow.to, format_seconds(most_seconds)));
        break;
      }
      const double seconds = pairs.seconds_of_one(mechanism, flow, bytes);
      rate = pairs.rates(mechanism, {flow}, bytes).front();
      rows.push_back({pair, flow.from, flow.to, name(mechanism), bytes, seconds, rate});
    }
  }
  return rows;
}

Extremes extremes(const std::vector<report::PairMatrix>& matrices) {
  Extremes result;
  double least = 0, most = 0;
  const std::size_t ranks = matrices.empty() ? 0 : matrices.front().rates.size();
  for (std::size_t from = 0; from < ranks; ++from) {
    for (std::size_t to = 0; to < ranks; ++to) {
      double best = 0;
      for (const report::PairMatrix& matrix : matrices) {
        if (matrix.direction == "one_way") best = std::max(best, matrix.rates[from][to].value_or(0));
      }
      if (best == 0) continue;
      const Flow flow{static_cast<int>(from), static_cast<int>(to)};
      if (!result.has_any || best < least) {
        least = best;
        result.slowest = flow;
      }
      if (!result.has_any || best > most) {
        most = best;
        result.fastest = flow;
      }
      result.has_any = true;
    }
  }
  if (least > kAlike * most) result.fastest = result.slowest;
  return result;
}

}  // namespace refit::engine
