#pragma once
// What a rank is doing right now, readable from the watchdog's thread and shown by profilers.

#include <atomic>
#include <cstdint>

#include "kernels/profile.hpp"

namespace refit::transport {

/// Written by the working thread, read by the watchdog when time is up. -1 means none.
struct Progress {
  std::atomic<const char*> phase{"start"};  ///< string literals only
  std::atomic<std::int32_t> stage{-1};
  std::atomic<std::int32_t> tensor{-1};  ///< index into the model's tensors
  std::atomic<std::int32_t> peer{-1};    ///< rank in the communicator in use

  void at(const char* new_phase) {
    phase = new_phase;
    stage = tensor = peer = -1;
    profile_.begin(new_phase);
  }

 private:
  kernels::ProfilePhase profile_;  // the working thread's
};

}  // namespace refit::transport
