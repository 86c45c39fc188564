#pragma once
// Facts about this process that the launcher puts into its environment, known before MPI starts.

#include <cstdint>
#include <string>

namespace refit::engine {

/// This process's place in its job: rank 0 of 1 where no known launcher has started it.
struct Launch {
  std::string launcher;         ///< "mpirun" (Open MPI's), "mpiexec" (another's), "srun"; empty: none
  std::int64_t rank = 0;        ///< in the world
  std::int64_t size = 1;        ///< processes of the job
  std::int64_t local_rank = 0;  ///< among the processes of this host
  std::int64_t local_size = 1;
  std::string job;  ///< a name that all processes of the job know and no other job on this host has; empty: none
};

/// Reads the environment of Open MPI, PMIx, MPICH and Slurm. Call it before MPI starts, which adds variables of its
/// own.
Launch read_launch();

/// Returns this process's launch as it was at the first call, which has to come before MPI starts.
const Launch& this_launch();

/// Returns true where Slurm's `srun` has started this process without any interface for MPI (--mpi=none).
bool lacks_interface(const Launch& launch);

/// Returns how `ranks` ranks are started here: "mpirun -np 4 refit run ...", under Slurm with srun. `options`: of the
/// launcher, for mpirun and for srun.
struct LauncherOptions {
  std::string mpirun, srun;
};
std::string start_hint(const Launch& launch, const std::string& ranks, const LauncherOptions& options = {});

/// Returns the --mpi of this process's srun where Slurm tells; else "".
std::string srun_interface();

/// Returns this host's name.
std::string host_name();

}  // namespace refit::engine
