#pragma once
// The MPI implementations of communicator, control plane, peer memory and links (hosts). A library of its own, so that
// the others need no MPI.

#include <memory>
#include <string>
#include <vector>

#include "transport/communicator.hpp"
#include "transport/links.hpp"
#include "transport/progress.hpp"

namespace refit::transport {

/// MPI_Init_thread .. MPI_Finalize. One per process; every other MPI object must be gone before it.
class MpiSession {
 public:
  /// Starts MPI. Collective over all processes of the job. `progress` is told where this waits for others; may be
  /// nullptr.
  explicit MpiSession(Progress* progress = nullptr);
  /// Makes settings that MPI and CUDA read when they are first used, even if only for a version. Call it before
  /// anything else of a process that will be a rank, and before other threads. `lanes`: of its communicators
  /// (refit.streams).
  static void prepare_environment(std::int64_t lanes);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Returns e.g. "Open MPI v4.1.4".
  static std::string version();
  /// Ends all ranks of the job with `exit_code`; callable from any thread at any time. Before MPI_Init has returned,
  /// and after MPI_Finalize has begun, it ends this process alone: its launcher ends the others.
  [[noreturn]] static void abort(int exit_code);
  /// Returns the number of processes of this job on this host.
  int node_size() const { return node_size_; }
  /// Returns this process's number among them, in order of rank.
  int node_rank() const { return node_rank_; }

 private:
  Progress* progress_;
  int rank_ = 0, size_ = 1, node_size_ = 1, node_rank_ = 0;
};

/// Makes the control plane over all processes; each of its collectives counts in `progress`, where there is one.
/// Collective over MPI_COMM_WORLD.
std::unique_ptr<Control> make_mpi_control(Progress* progress = nullptr);

/// Waits for all ranks of `world`, a control plane of make_mpi_control, asleep: for ranks with nothing to do while
/// others measure, whose cores they must not take. Collective over `world`.
void sleep_until_all_come(Control& world);

/// Makes a control plane of the first `ranks` ranks of `world`, one of make_mpi_control; nullptr on the others. Its
/// collectives count in the progress as those of the whole job: for a part that works while the others sleep.
/// Collective over `world`.
std::unique_ptr<Control> make_part(Control& world, std::int64_t ranks);

/// The ranks in the next functions are those of `world`: a control plane of make_mpi_control, or a split of one, which
/// lends its MPI communicator while the call lasts; nullptr: all processes of the job.

/// The most bytes of one MPI operation, unless it is said: counts are ints.
inline constexpr std::int64_t kOperationBytes = std::int64_t{1} << 30;

/// Makes a data-plane communicator of the ranks in `members` (ascending; communicator rank = position). Collective over
/// `members` only. `tag` tells apart communicators that are created at the same time. Lanes are 0 .. `lanes` - 1.
/// `operation_bytes`: the most of one MPI operation (counts are ints): no message is longer, and broadcasts are cut.
/// `hosts`: by rank of the world, equal numbers are one host; empty: all are on one. Broadcasts between hosts go along
/// a chain (host_chain.hpp), at most 120 of them at a time.
std::unique_ptr<Communicator> make_mpi_communicator(const std::vector<int>& members, int tag, int lanes,
                                                    const Control* world = nullptr,
                                                    std::int64_t operation_bytes = kOperationBytes,
                                                    const std::vector<int>& hosts = {});

/// Makes shared memory of this node: an MPI shared window with `bytes` (256-byte aligned) on this rank. Collective over
/// the world. Errors (runtime): less free shared memory than all ranks of the node ask for, checked before allocating;
/// the message has the needed and the available amounts, and says that `--executor p2p` needs none.
std::unique_ptr<PeerMemory> make_mpi_peer_memory(std::int64_t bytes, const Control* world = nullptr);

/// Makes the links of a job on MPI, or of a part of its ranks, for the place where this build's kernels run. `world`:
/// make_mpi_control's or a split of it; must outlive the result. `timeout_seconds`: as make_device_links has it.
std::unique_ptr<Links> make_links(Control& world, double timeout_seconds, Progress& progress);

}  // namespace refit::transport
