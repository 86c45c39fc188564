#pragma once
// The m2n executor: whole tensors go by NCCL M2N's operation (ncclReshard), tensors without its form by p2p.
//
// The operation reads and writes contiguous shards. A rank with a contiguous shard hands out the storage itself; others
// pack into and place from staging, as the original does: q, k and v of a fused parameter, gate and up, experts that
// are one tensor on the wire.

#include <array>

#include "plan/reshard.hpp"
#include "transport/executor.hpp"

namespace refit::transport {

/// One operation, with the same values on every rank of its communicator.
struct ReshardCall {
  struct End {
    int first = 0;               ///< rank in the communicator
    int axes = 1;                ///< of the mesh: 1 or 2
    std::array<int, 2> ranks{};  ///< by axis
    std::array<int, 2> placements{};
    std::array<std::size_t, 3> shard{};  ///< by dimension
    std::byte* data = nullptr;           ///< this rank's shard, where the rank is of that end
  };
  End source;
  End destination;
  int dimensions = 1;
  int element_bytes = 1;

  End& end(Side side) { return side == Side::source ? source : destination; }
};

/// The operation of a library. Its groups are collective over their communicator, in the same order on all its ranks.
class Resharder {
 public:
  virtual ~Resharder() = default;
  virtual std::unique_ptr<Request> make_request() = 0;
  /// Starts a group of one source stage, behind the work that the caller has fenced. `request` must be idle.
  virtual void post(std::span<const ReshardCall> group, std::int32_t stage, Request& request) = 0;
  /// Returns the bytes of device memory that the operation's library has taken for itself. They are measured as a loss
  /// of free memory: on a shared device they include memory that other ranks take meanwhile.
  virtual std::int64_t own_bytes() const = 0;
};

/// Makes m2n, for sides that are apart: `resharding` by groups of `resharder`, then the leftovers' part of `copies` by
/// p2p. Groups of up to `tuning.streams` stages take turns. `tensors`: the bulk path's. Statistics: "m2n" and "p2p",
/// the two parts, and "library", the device memory that the operation's library has taken.
std::unique_ptr<Executor> make_m2n(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<model::Tensor>& tensors, const plan::Resharding& resharding,
                                   const plan::Layout& source, const plan::Layout& destination,
                                   const std::vector<plan::Copy>& copies, std::unique_ptr<Resharder> resharder,
                                   const Tuning& tuning, Progress& progress);

/// Returns whether this build has NCCL M2N.
bool has_nccl_m2n();

/// Prepares for NCCL M2N before NCCL's first communicator, beside prepare_nccl. It requires NCCL 2.30.5 on all ranks,
/// and sets NCCL_CUMEM_ENABLE=1 and NCCL_NVLS_ENABLE=0 unless they have values: without a network card that it can
/// drive, the library's way through the host needs both. Collective over `members`. Errors (unavailable): both
/// versions, or that this build has no NCCL M2N.
void prepare_nccl_m2n(Control& members);

/// Makes a resharder over the ranks of `routes`, whose communicators are of make_nccl_communicator; stages with equal
/// numbers mod `streams` share a stream where they share a communicator. Collective over the ranks of all routes. A
/// process has one at a time. Errors (runtime): NCCL M2N's own, with its text; nothing more can be done then.
///
/// Its communicators block, unlike those of p2p: the library calls NCCL several times for each operation, and each such
/// call on a non-blocking one waits for another thread to do it.
std::unique_ptr<Resharder> make_nccl_resharder(const Routes& routes, std::int64_t streams);

}  // namespace refit::transport
