#pragma once
// The one clock of durations.

#include <chrono>

namespace refit {

/// Returns the seconds of the machine's monotonic clock.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace refit
