#pragma once
// Limits of the time of phases. They are set nowhere else.

#include <cstdint>

#include "case/case.hpp"

namespace refit::cases {

/// A refit has `timeout_seconds`. Every other phase (start, MPI's own, allocating, probing, loading, planning,
/// verifying, dumping, the end) is not measured: it has `phase_seconds` in addition, and time for its bytes at a slow
/// machine's pace. While loading moves the time begins anew.
struct Limits {
  static constexpr double kSlowBytesPerSecond = 1e8;

  double timeout_seconds = 60;  ///< 0 = no limit on any phase
  double phase_seconds = 60;

  double refit() const { return timeout_seconds; }
  /// Returns the limit of a phase. `bytes`: the most that the phase may read or write on one host.
  double phase(std::int64_t bytes = 0) const {
    if (timeout_seconds <= 0) return 0;
    return timeout_seconds + phase_seconds + static_cast<double>(bytes) / kSlowBytesPerSecond;
  }
};

inline Limits limits_of(const Case& c) { return {c.run.timeout_seconds, c.run.phase_seconds}; }

}  // namespace refit::cases
