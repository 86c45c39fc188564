#pragma once
// A stand-in for CUDA and NCCL, for what happens on ranks between their calls: refusals and failures of a rank, which
// no real GPU makes to order. Memory is the host's; nothing is copied, and the addresses of other ranks' memory are
// made up.

#include <nccl.h>

#include <set>

namespace refit::test_support {

/// What this rank's libraries do, and what they have given out.
struct FakeGpu {
  int nccl_version = 23007;
  bool has_windows = true;
  int team_size = 0;  ///< 0: all ranks of the communicator
  bool allocates = true;
  ncclResult_t creates = ncclSuccess;    ///< a communicator
  ncclResult_t registers = ncclSuccess;  ///< a window
  std::set<int> out_of_reach;            ///< ranks of a communicator whose windows have no address here

  int communicators = 0;
  int windows = 0;
  int allocations = 0;
};

FakeGpu& fake_gpu();

/// Returns the address of a rank's memory as NCCL, or CUDA IPC, is made to tell it.
std::byte* fake_window(int rank);
std::byte* fake_ipc();

}  // namespace refit::test_support
