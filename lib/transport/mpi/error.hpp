#pragma once
// MPI return codes as errors; private to the MPI implementations.

#include <mpi.h>

#include "core/error.hpp"

namespace refit::transport {

/// Throws a runtime Error with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, SourceLocation where = SourceLocation::current());

}  // namespace refit::transport
