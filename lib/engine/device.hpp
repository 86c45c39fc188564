#pragma once
// Start of a process's kernels: on a GPU it takes seconds where many processes start at once.

#include "case/limits.hpp"
#include "kernels/kernels.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/progress.hpp"

namespace refit::engine {

/// Makes this process's device, in a phase of its own. Errors: as kernels::Runtime.
inline kernels::Runtime start_device(const transport::MpiSession& session, transport::Progress& progress,
                                     const cases::Limits& limits) {
  progress.begin_unprofiled("device", limits.phase());
  return kernels::Runtime(session.node_rank(), session.node_size());
}

}  // namespace refit::engine
