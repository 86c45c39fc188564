#pragma once
// The versions that this library itself can know; those of MPI, NCCL, CUDA and Kokkos are put in by their owners.

#include <string>

#include "report/result.hpp"

namespace refit::report {

/// refit's version, e.g. "0.1.0".
std::string refit_version();

/// Name and version of the compiler that built refit, e.g. "GNU 12.2.0".
std::string compiler_version();

/// Version of the HDF5 library that is loaded, e.g. "1.10.8". Errors: runtime, where the library does not answer.
std::string hdf5_version();

/// An Environment with the three versions above.
Environment local_environment();

/// The present time in UTC, ISO 8601: "2025-01-31T12:00:00Z".
std::string current_time();

}  // namespace refit::report
