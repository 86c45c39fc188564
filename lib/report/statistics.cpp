#include "report/statistics.hpp"

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

std::vector<double> weight_sync_samples(const Result& result) {
  std::vector<double> samples;
  for (const Refit& refit : result.refits) {
    if (!refit.warmup) samples.push_back(refit.weight_sync);
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
    if (refit.warmup) continue;
    if (phases.size() == first) {
      for (const auto& [key, seconds] : refit.phases) phases.push_back({key, {}});
    }
    for (std::size_t i = first; i < phases.size(); ++i) {
      if (const auto seconds = find_phase(refit, phases[i].first)) phases[i].second.push_back(*seconds);
    }
  }
  return phases;
}

std::optional<double> algorithm_bandwidth(const Result& result, const Refit& refit) {
  if (!result.payload || refit.weight_sync <= 0) return std::nullopt;
  return static_cast<double>(result.payload->total_bytes()) / refit.weight_sync / 1e9;
}

std::int64_t served_wrong(const Result& result) {
  return std::ranges::count_if(
      result.refits, [](const Refit& refit) { return refit.is_committed && refit.elements_wrong.value_or(0) > 0; });
}

std::string proved_weights(const Result& result) {
  for (auto refit = result.refits.rbegin(); refit != result.refits.rend(); ++refit)
    if (refit->is_committed) return refit->version.weights;
  return "";
}

}  // namespace refit::report
