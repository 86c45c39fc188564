#pragma once
// Start of a process's kernels: on a GPU it takes seconds where many processes start at once.

#include <optional>

#include "case/limits.hpp"
#include "kernels/kernels.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/progress.hpp"
#include "transport/together.hpp"

namespace refit::engine {

/// Makes this process's device, in a phase of its own. Errors: as kernels::Runtime, on all ranks. Collective over
/// `world`.
inline void start_device(std::optional<kernels::Runtime>& runtime, const transport::MpiSession& session,
                         transport::Control& world, transport::Progress& progress, const cases::Limits& limits) {
  progress.begin_unprofiled("device", limits.phase());
  transport::together(world, [&] { runtime.emplace(session.node_rank(), session.node_size()); });
}

}  // namespace refit::engine
