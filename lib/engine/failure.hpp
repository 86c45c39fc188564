#pragma once
// How a job can end before its end.

#include <cstdint>
#include <string>

#include "core/error.hpp"

namespace refit::engine {

enum class Ending : std::uint8_t {
  error,        ///< that a rank has seen itself
  death,        ///< a process is no more
  timeout,      ///< a phase took longer than it may
  interruption  ///< a signal told the job to end
};

struct Failure {
  Ending ending = Ending::error;
  ErrorKind kind = ErrorKind::runtime;
  int rank = -1;  ///< world rank that failed, died, got the signal, or that the others waited for; -1: none is known
  std::string phase;  ///< in which it was
  std::string message;
  double seconds = 0;  ///< of a timeout: the limit
};

}  // namespace refit::engine
