#pragma once
// The m2n executor: whole tensors go by NCCL M2N's operation (ncclReshard), what does not have its form by p2p.
//
// The operation reads and writes contiguous shards. A rank that stores its shard so hands out the storage itself;
// others pack into and place from staging, as the original does: q, k and v of a fused parameter, gate and up, experts
// that are one tensor on the wire.

#include <array>

#include "plan/reshard.hpp"
#include "transport/executor.hpp"

namespace refit::transport {

/// One operation as every rank of its communicator states it.
struct ReshardCall {
  struct End {
    int first = 0;               ///< rank in the communicator
    int axes = 1;                ///< of the mesh: 1 or 2
    std::array<int, 2> ranks{};  ///< by axis
    std::array<int, 2> placements{};
    std::array<std::size_t, 3> shard{};  ///< by dimension
    std::byte* data = nullptr;           ///< this rank's shard, where it is of that end
  };
  End source;
  End destination;
  int dimensions = 1;
  int element_bytes = 1;

  End& end(Side side) { return side == Side::source ? source : destination; }
};

/// The operation. Its groups are collective over their communicator, in the same order on all its ranks.
class Resharder {
 public:
  virtual ~Resharder() = default;
  virtual std::unique_ptr<Request> make_request() = 0;
  /// Starts a group of one source stage, behind what the caller has fenced. `request` must be idle.
  virtual void post(std::span<const ReshardCall> group, std::int32_t stage, Request& request) = 0;
  /// Device memory that the operation's library has taken for itself, in bytes. Seen as free memory that goes: of ranks
  /// that share a device, what the others take meanwhile is in it.
  virtual std::int64_t own_bytes() const = 0;
};

/// m2n: `resharding` by groups of `resharder`, then of `copies` those of the leftovers by p2p. Groups of up to
/// `tuning.streams` stages take turns. `tensors`: the bulk path's. Statistics: "m2n" and "p2p", the two parts, and
/// "library", the device memory that the operation's library has taken.
std::unique_ptr<Executor> make_m2n(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<model::Tensor>& tensors, const plan::Resharding& resharding,
                                   const plan::Layout& source, const plan::Layout& destination,
                                   const std::vector<plan::Copy>& copies, std::unique_ptr<Resharder> resharder,
                                   const Tuning& tuning, Progress& progress);

/// Whether this build has NCCL M2N.
bool has_nccl_m2n();

/// What NCCL M2N needs before NCCL's first communicator, beside prepare_nccl: NCCL 2.30.5 on all ranks; sets
/// NCCL_CUMEM_ENABLE=1 and NCCL_NVLS_ENABLE=0 unless they have values: without a network card that it can drive, the
/// library's way through the host needs both. Collective over `members`. Errors (unavailable): both versions, or that
/// this build has no NCCL M2N.
void prepare_nccl_m2n(Control& members);

/// Over the ranks of `routes`, whose communicators are of make_nccl_communicator; stages with equal numbers mod
/// `streams` share a stream where they share a communicator. Collective over the ranks of all routes. One at a time in
/// a process. Errors (runtime): NCCL M2N's own, with its text; nothing more can be done then.
///
/// Its communicators block, unlike those of p2p: the library calls NCCL several times for each operation, and each such
/// call on one that does not block waits for another thread to do it.
std::unique_ptr<Resharder> make_nccl_resharder(const Routes& routes, std::int64_t streams);

}  // namespace refit::transport
