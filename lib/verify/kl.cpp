#include "verify/kl.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace refit::verify {
namespace {

constexpr double kUnit = 1.0 / 16777216.0;  // 2^-24

double root_mean_square(std::span<const std::int64_t> sums) {
  double squares = 0.0;
  for (std::int64_t sum : sums) squares += (static_cast<double>(sum) * kUnit) * (static_cast<double>(sum) * kUnit);
  return std::sqrt(squares / static_cast<double>(sums.size()));
}

std::vector<double> log_softmax(std::span<const std::int64_t> sums, double scale) {
  std::vector<double> logits;
  for (std::int64_t sum : sums) logits.push_back(static_cast<double>(sum) * kUnit * scale);
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (double logit : logits) total += std::exp(logit - top);
  for (double& logit : logits) logit -= top + std::log(total);
  return logits;
}

}  // namespace

bool is_beyond_numbers(std::span<const std::int64_t> sums) {
  constexpr std::int64_t kSaturated = std::int64_t{1} << 39;  // of a value that is no number (kernels::signed_row_sums)
  return std::any_of(sums.begin(), sums.end(),
                     [](std::int64_t sum) { return sum >= kSaturated / 2 || sum <= -kSaturated / 2; });
}

double kl_of_row_sums(std::span<const std::int64_t> train, std::span<const std::int64_t> gen) {
  if (std::equal(train.begin(), train.end(), gen.begin(), gen.end())) return 0.0;
  const double rms = root_mean_square(train);
  const double scale = kLogitScale / (rms > 0.0 ? rms : 1.0);
  const std::vector<double> p = log_softmax(train, scale);
  const std::vector<double> q = log_softmax(gen, scale);
  double kl = 0.0;
  for (std::size_t i = 0; i < p.size(); ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
  return std::max(kl, 0.0);  // rounding may leave a tiny negative number
}

}  // namespace refit::verify
