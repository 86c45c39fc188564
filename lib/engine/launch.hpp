#pragma once
// Facts about this process that the launcher puts into its environment, known before MPI starts.

#include <cstdint>
#include <string>

namespace refit::engine {

/// This process's place in its job: rank 0 of 1 where no known launcher has started it.
struct Launch {
  std::int64_t rank = 0;        ///< in the world
  std::int64_t size = 1;        ///< processes of the job
  std::int64_t local_rank = 0;  ///< among the processes of this host
  std::int64_t local_size = 1;
  std::string job;  ///< a name that all processes of the job know and no other job on this host has; empty: none
};

/// Reads the environment of Open MPI, PMIx, MPICH and Slurm.
Launch read_launch();

/// Returns this host's name.
std::string host_name();

}  // namespace refit::engine
