#include "report/statistics.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace refit::report {
namespace {

double quantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(position));
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

std::optional<Summary> summarise(std::span<const double> samples) {
  if (samples.empty()) return std::nullopt;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  Summary summary;
  summary.min = sorted.front();
  summary.median = quantile(sorted, 0.5);
  summary.mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  summary.p95 = quantile(sorted, 0.95);
  summary.p99 = quantile(sorted, 0.99);
  summary.max = sorted.back();
  return summary;
}

namespace {

/// Returns whether no engine took part: they were all dead.
bool is_idle(const Refit& refit) {
  return !refit.engines.empty() &&
         std::ranges::none_of(refit.engines, [](const EngineRefit& one) { return one.weight_sync.has_value(); });
}

}  // namespace

std::vector<double> weight_sync_samples(const Result& result) {
  std::vector<double> samples;
  for (const Refit& refit : result.refits) {
    if (!refit.warmup && !is_idle(refit)) samples.push_back(refit.weight_sync);
  }
  return samples;
}

std::vector<double> host_samples(const Result& result) {
  std::vector<double> samples;
  for (const Refit& refit : result.refits) {
    if (!refit.warmup && refit.host_seconds) samples.push_back(*refit.host_seconds);
  }
  return samples;
}

std::vector<double> delta_bytes_samples(const Result& result) {
  std::vector<double> samples;
  for (const Refit& refit : result.refits) {
    if (!refit.warmup && refit.delta) samples.push_back(static_cast<double>(refit.delta->bytes));
  }
  return samples;
}

std::vector<double> changed_samples(const Result& result) {
  std::vector<double> samples;
  for (const Refit& refit : result.refits) {
    if (refit.warmup || !refit.delta || refit.delta->elements == 0) continue;
    samples.push_back(static_cast<double>(refit.delta->changed) / static_cast<double>(refit.delta->elements));
  }
  return samples;
}

std::optional<double> find_phase(const Refit& refit, const std::string& phase) {
  for (const auto& [key, seconds] : refit.phases) {
    if (key == phase) return seconds;
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::vector<double>>> phase_samples(const Result& result) {
  std::vector<std::pair<std::string, std::vector<double>>> phases;
  for (const auto& [key, seconds] : result.prepare) phases.push_back({key, {seconds}});
  const auto first = phases.size();
  for (const Refit& refit : result.refits) {
    if (refit.warmup || is_idle(refit)) continue;
    if (phases.size() == first) {
      for (const auto& [key, seconds] : refit.phases) phases.push_back({key, {}});
    }
    for (std::size_t i = first; i < phases.size(); ++i) {
      if (const auto seconds = find_phase(refit, phases[i].first)) phases[i].second.push_back(*seconds);
    }
  }
  return phases;
}

std::vector<EngineLives> lives(const Result& result) {
  if (result.refits.empty()) return {};
  std::vector<EngineLives> all(result.refits.front().engines.size());
  for (const Refit& refit : result.refits) {
    for (std::size_t e = 0; e < all.size(); ++e) {
      const EngineRefit& part = refit.engines[e];
      if (part.join_seconds) all[e].joins.emplace_back(refit.number, *part.join_seconds);
      if (part.weight_sync) {
        all[e].refits.push_back(refit.number);
        all[e].weight_sync.push_back(*part.weight_sync);
      }
      if (part.alive) {
        all[e].dead_since.reset();
      } else if (!all[e].dead_since) {
        all[e].dead_since = refit.number;
      }
      all[e].version = part.version;
    }
  }
  return all;
}

std::string versions_text(const Result& result) {
  if (result.refits.empty() || result.engines.empty()) return "";
  const std::vector<EngineLives> all = lives(result);
  const auto holds = [](const Engine& engine) {
    const std::int64_t version = engine.version.value_or(-1);
    return version < 0 ? std::string("holds no version") : fmt::format("holds version {}", version);
  };
  const bool alike = std::ranges::all_of(
      result.engines, [&](const Engine& engine) { return engine.version == result.engines.front().version; });
  if (alike && all.empty()) return "gen " + holds(result.engines.front());
  std::vector<std::string> texts;
  for (std::size_t e = 0; e < result.engines.size(); ++e) {
    const bool is_dead = !all.empty() && all[e].dead_since;
    texts.push_back(fmt::format("engine {} {}{}", e, holds(result.engines[e]),
                                is_dead ? fmt::format(", dead since refit {}", *all[e].dead_since) : ""));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

std::optional<double> algorithm_bandwidth(const Result& result, const Refit& refit) {
  if (!result.payload || refit.weight_sync <= 0) return std::nullopt;
  return static_cast<double>(result.payload->total_bytes()) / refit.weight_sync / 1e9;
}

std::int64_t served_wrong(const Result& result) {
  return std::ranges::count_if(result.refits,
                               [](const Refit& refit) { return refit.is_committed && refit.failed_proof; });
}

std::string proved_weights(const Result& result) {
  for (auto refit = result.refits.rbegin(); refit != result.refits.rend(); ++refit)
    if (refit->is_committed) return refit->version.weights;
  return "";
}

}  // namespace refit::report
