#pragma once
// The NCCL implementation of the data plane. No NCCL header is needed to use it; in a build without CUDA everything
// here except nccl_version is refused as unavailable.
//
// Memory: `data` of messages and broadcasts is device memory of this rank's device (or pinned host memory). Operations
// run on streams of the communicator's own, which wait for no other stream: callers fence what they have enqueued
// before `post` and `broadcast`, as the executors do, and a request that tests true is complete for every stream.

#include <memory>
#include <string>

#include "transport/communicator.hpp"

namespace refit::transport {

/// Prepares for NCCL's first communicator. It requires, on all ranks, a library no older than the headers that refit is
/// built with; and, where ranks share a GPU, NCCL 2.30 with NCCL_MULTI_RANK_GPU_ENABLE=1, which is set here unless it
/// has a value. Returns a note for the report, or an empty string. Collective over `members`. Errors (unavailable), on
/// all ranks alike: the required version and the one found. make_nccl_communicator calls this too; a call at startup
/// refuses early.
std::string prepare_nccl(Control& members);

/// Makes a communicator of all ranks of `members` (rank = rank there) with lanes 0 .. `lanes` - 1; broadcasts run on
/// lane 0. Collective over `members`, which need not outlive it. Its first connection between two ranks is made when
/// they first exchange a message on a lane. Messages to oneself need their receive in the same group; empty messages
/// are not sent.
///
/// No call blocks: `post` and `test` launch operations and notice failures of other ranks. Requests must be gone, or
/// complete, before the communicator is. Destruction is collective too; a communicator that has failed, is still at
/// work or is unwound by an exception is aborted, and none waits for long.
///
/// `timeout_seconds` bounds creation (0: no bound). Errors (runtime): NCCL's own, with its text.
std::unique_ptr<Communicator> make_nccl_communicator(Control& members, int lanes, double timeout_seconds);

/// Returns the version of the library in use, e.g. "2.30.7"; empty in a build without CUDA.
std::string nccl_version();

}  // namespace refit::transport
