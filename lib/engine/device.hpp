#pragma once
// Where a process's kernels start: on a GPU that takes seconds, where many processes start on it at once.

#include "case/limits.hpp"
#include "kernels/kernels.hpp"
#include "transport/mpi.hpp"
#include "transport/progress.hpp"

namespace refit::engine {

/// The device of this process, in a phase of its own. Errors: as kernels::Runtime.
inline kernels::Runtime start_device(const transport::MpiSession& session, transport::Progress& progress,
                                     const cases::Limits& limits) {
  progress.begin_unprofiled("device", limits.phase());
  return kernels::Runtime(session.node_rank(), session.node_size());
}

}  // namespace refit::engine
