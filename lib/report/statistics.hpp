#pragma once
// Statistics of samples, and the samples of a result.
//
// Quantiles interpolate linearly between order statistics (Hyndman and Fan's type 7, the default of R and NumPy): for n
// sorted samples x[0..n-1] the quantile q lies at position h = q (n - 1), between x[floor(h)] and the next one.
// Example: the p95 of 1, 2, 3, 4 is at h = 2.85, so 3.85; their median is 2.5.

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

/// A summary in the samples' unit.
struct Summary {
  double min = 0;
  double median = 0;
  double mean = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
};

/// Returns the summary of `samples`, in any order; nothing when there are none.
std::optional<Summary> summarise(std::span<const double> samples);

/// Returns the weight_sync seconds of the refits after the warm-up in which an engine took part.
std::vector<double> weight_sync_samples(const Result& result);

/// Returns the host_seconds of these refits; nothing where the executor has none.
std::vector<double> host_samples(const Result& result);

/// Returns the bytes that these refits sent with deltas, and the shares of elements that had changed where that is
/// known; nothing without deltas.
std::vector<double> delta_bytes_samples(const Result& result);
std::vector<double> changed_samples(const Result& result);

/// Returns the seconds that `refit` spent in a phase; nothing where it has none of that name.
std::optional<double> find_phase(const Refit& refit, const std::string& phase);

/// Returns the samples of each phase: those of prepare with one sample each, then those of the refits after the
/// warm-up.
std::vector<std::pair<std::string, std::vector<double>>> phase_samples(const Result& result);

/// Returns the payload bytes per second of one refit, in GB/s (1e9); nothing without a payload or a time.
std::optional<double> algorithm_bandwidth(const Result& result, const Refit& refit);

/// Returns the number of refits from which gen generated although their proof failed.
std::int64_t served_wrong(const Result& result);

/// Returns the last proved fingerprint of the weights from which gen generates at the end; empty: they were not proved.
std::string proved_weights(const Result& result);
/// What became of an engine in a run in which engines come and go.
struct EngineLives {
  std::vector<std::int64_t> refits;                    ///< in which it took part
  std::vector<double> weight_sync;                     ///< seconds of these
  std::vector<std::pair<std::int64_t, double>> joins;  ///< refits before which it was made, and the seconds of that
  std::optional<std::int64_t> dead_since;              ///< the first refit without it, where it is dead at the end
  std::int64_t version = -1;                           ///< that it has at the end; -1: none
};

/// Returns the lives of each engine; nothing where the run has no drill, or no refits.
std::vector<EngineLives> lives(const Result& result);

/// Returns e.g. "gen holds version 5", or "engine 0 holds version 5; engine 1 holds version 2, dead since refit 3";
/// empty before the first refit.
std::string versions_text(const Result& result);

}  // namespace refit::report
