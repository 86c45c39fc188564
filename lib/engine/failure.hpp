#pragma once
// The ways in which a job can fail before its end.

#include <cstdint>
#include <string>

#include "core/error.hpp"

namespace refit::engine {

enum class Ending : std::uint8_t {
  error,        ///< a rank has seen it itself
  death,        ///< a process has ended
  timeout,      ///< a phase took longer than it may
  interruption  ///< a signal told the job to end
};

struct Failure {
  Ending ending = Ending::error;
  ErrorKind kind = ErrorKind::runtime;
  int rank = -1;  ///< world rank that failed, died, got the signal, or that the others waited for; -1: none is known
  std::string phase;  ///< the phase of the failure
  std::string message;
  double seconds = 0;  ///< of a timeout: the limit
};

}  // namespace refit::engine
