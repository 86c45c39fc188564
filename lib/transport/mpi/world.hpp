#pragma once
// The MPI communicator behind a control plane. Private to lib/transport/mpi.

#include <mpi.h>

#include "transport/communicator.hpp"

namespace refit::transport {

/// Returns the communicator of a control plane that MPI makes, which keeps it; nullptr: MPI_COMM_WORLD.
MPI_Comm communicator_of(const Control* world);

}  // namespace refit::transport
