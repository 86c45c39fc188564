#pragma once
// Functions that hosts and devices share, marked without Kokkos, so that a host compiler can build sources that only
// include this.

#include <cstdint>

#if defined(__CUDACC__)
#define REFIT_FUNCTION __host__ __device__ inline
#define REFIT_FORCEINLINE __host__ __device__ __forceinline__
#define REFIT_CALLS_EITHER _Pragma("nv_exec_check_disable")
#define REFIT_UNROLL _Pragma("unroll")
#else
// Always inlined: functions for other processors (REFIT_HOST_VECTORS) inline nothing else.
#define REFIT_FUNCTION inline __attribute__((always_inline))
#define REFIT_FORCEINLINE inline __attribute__((always_inline))
/// Stands before templates that call functions given to them, of a host or of a device.
#define REFIT_CALLS_EITHER
/// Stands before loops whose arrays a device keeps in registers.
#define REFIT_UNROLL
#endif

namespace refit::kernels {

/// The positions of one of `lanes` lanes in rows of `columns` columns, which the lanes visit in turns. Without a
/// division per step.
struct LaneWalk {
  std::uint32_t columns, row, column, down, across;

  REFIT_FUNCTION LaneWalk(std::uint32_t lane, std::uint32_t lanes, std::uint32_t of_row)
      : columns(of_row), row(lane / of_row), column(lane % of_row), down(lanes / of_row), across(lanes % of_row) {}
  REFIT_FUNCTION void next() {
    row += down;
    column += across;
    if (column >= columns) {
      column -= columns;
      ++row;
    }
  }
};

}  // namespace refit::kernels
