#pragma once
// The versions that this library itself can know; the owners of MPI, NCCL, CUDA and Kokkos add those.

#include <string>

#include "report/result.hpp"

namespace refit::report {

/// Returns name and version of the compiler that built refit, e.g. "GNU 12.2.0".
std::string compiler_version();

/// Returns the version of the HDF5 library that is loaded, e.g. "1.10.8". Errors: runtime, where the library does not
/// answer.
std::string hdf5_version();

/// Returns an Environment with those, refit's release and its commit.
Environment local_environment();

/// Returns the present time in UTC, ISO 8601: "2025-01-31T12:00:00Z".
std::string current_time();

}  // namespace refit::report
