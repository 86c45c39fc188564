/* refit_mpi.h: a world of the processes of an MPI communicator. Everything is inline, so that librefit itself needs no MPI.
 */
#ifndef REFIT_MPI_H
#define REFIT_MPI_H

#include <limits.h>
#include <mpi.h>

#include <refit.h>

/* refit_control.all_gather over the MPI_Comm that `communicator` points to. */
static inline int refit_mpi_all_gather(void* communicator, const void* mine, void* all, size_t bytes) {
  if (bytes > INT_MAX) return MPI_ERR_COUNT;
  return MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, *(MPI_Comm*)communicator);
}

/* Makes a world whose ranks are those of `communicator`: refit_world_create. Collective over it. */
static inline refit_status refit_world_create_mpi(MPI_Comm communicator, const char* options, refit_world** world) {
  refit_control control = {0, 0, &communicator, refit_mpi_all_gather};
  MPI_Comm_rank(communicator, &control.rank);
  MPI_Comm_size(communicator, &control.size);
  return refit_world_create(&control, options, world);
}

#endif
