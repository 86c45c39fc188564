#pragma once
// What a result says of the machines and the launcher of a job, as far as Linux and the environment say it.

#include "engine/launch.hpp"
#include "report/result.hpp"
#include "transport/communicator.hpp"

namespace refit::engine {

/// Returns this process's host.
report::HostInfo this_host();

/// Returns the components of Open MPI by which this process sends, e.g. "pml/ob1", "btl/tcp": those that are loaded now
/// that MPI runs (it unloads the others). None where they are linked into the library (Open MPI 5), or for another MPI.
std::vector<std::string> mpi_transports();

/// Returns the variables of this process's environment that choose or tune networks, sorted: NCCL_..., UCX_..., FI_...,
/// MPICH_..., and Open MPI's of its transports.
std::vector<std::pair<std::string, std::string>> network_variables();

/// Returns the batch system's number of this job: Slurm's, PBS's or LSF's; empty: none.
std::string batch_job();

/// Returns the same record on every rank. Collective over `world`.
report::JobInfo gather_job(transport::Control& world, const Launch& launch);

}  // namespace refit::engine
