#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "core/box.hpp"
#include "transport/memory.hpp"
#include "transport/mpi/error.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/mpi/world.hpp"

namespace refit::transport {
namespace {

/// Folder in which Open MPI keeps shared windows; other MPI libraries map theirs from its memory too.
constexpr const char* kSharedMemory = "/dev/shm";

/// MPI gives every rank's part whole pages.
constexpr std::int64_t kPageBytes = 4096;

class MpiPeerMemory final : public PeerMemory {
 public:
  MpiPeerMemory(std::int64_t bytes, MPI_Comm world) {
    int world_size = 0;
    int world_rank = 0;
    check_mpi(MPI_Comm_size(world, &world_size));
    check_mpi(MPI_Comm_rank(world, &world_rank));
    check_mpi(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &node_));
    // MPI aligns parts to 8 bytes only: each has room to begin at the next multiple of kStorageAlignment.
    if (bytes > 0) bytes += kStorageAlignment;
    require_space(bytes, world);
    void* base = nullptr;
    // One window, its parts apart: each rank's part begins on a page of its own.
    MPI_Info info = MPI_INFO_NULL;
    check_mpi(MPI_Info_create(&info));
    check_mpi(MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    check_mpi(MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes), 1, info, node_, &base, &window_));
    check_mpi(MPI_Info_free(&info));
    check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_));
    const auto beyond = static_cast<int>(reinterpret_cast<std::uintptr_t>(base) % kStorageAlignment);
    const int shift = bytes > 0 && beyond > 0 ? static_cast<int>(kStorageAlignment) - beyond : 0;
    local_ = bytes > 0 ? static_cast<std::byte*>(base) + shift : nullptr;
    map_all(world_size, {world_rank, shift});
  }

  /// Freeing is collective: while an exception unwinds, the others may never come, and the window goes with the
  /// process.
  ~MpiPeerMemory() override {
    if (std::uncaught_exceptions() > 0) return;
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
    MPI_Comm_free(&node_);
  }
  MpiPeerMemory(const MpiPeerMemory&) = delete;
  MpiPeerMemory& operator=(const MpiPeerMemory&) = delete;

  std::byte* local() const override { return local_; }
  std::byte* map(int rank) const override { return arenas_[static_cast<std::size_t>(rank)]; }
  void fence() override {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    check_mpi(MPI_Win_sync(window_));
  }

 private:
  /// Throws on all ranks of the world or on none, with the numbers of the node that is shortest of memory.
  void require_space(std::int64_t bytes, MPI_Comm world) {
    std::int64_t numbers[2] = {round_up(bytes, kPageBytes), 0};  // needed, available
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, numbers, 1, MPI_INT64_T, MPI_SUM, node_));
    struct statvfs status {};
    if (statvfs(kSharedMemory, &status) == 0) {
      numbers[1] = static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
    } else {
      numbers[1] = numbers[0];  // unknown: MPI decides
    }
    // The window is a file, and MPI hangs where its length exceeds the limit.
    rlimit limit{};
    const bool is_limited = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    if (is_limited) numbers[1] = std::min(numbers[1], static_cast<std::int64_t>(limit.rlim_cur));
    struct {
      long missing;
      int rank;
    } worst{numbers[0] - numbers[1], 0};
    check_mpi(MPI_Comm_rank(world, &worst.rank));
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_LONG_INT, MPI_MAXLOC, world));
    if (worst.missing <= 0) return;
    check_mpi(MPI_Bcast(numbers, 2, MPI_INT64_T, worst.rank, world));
    check_mpi(MPI_Comm_free(&node_));
    fail_runtime(
        "shared memory: {:.2f} GiB are needed for the gen arenas and {} of world rank {} has {:.2f} GiB for it (free "
        "memory, or ulimit -f); enlarge it, or use --executor p2p or golden, which need none",
        static_cast<double>(numbers[0]) / (1 << 30), kSharedMemory, worst.rank,
        static_cast<double>(numbers[1]) / (1 << 30));
  }

  /// Place of a rank's arena in its part of the window; pages keep it the same in every process.
  struct Arena {
    int world_rank;
    int shift;
  };

  void map_all(int world_size, Arena mine) {
    int node_size = 0;
    check_mpi(MPI_Comm_size(node_, &node_size));
    std::vector<Arena> all(static_cast<std::size_t>(node_size));
    check_mpi(MPI_Allgather(&mine, 2, MPI_INT, all.data(), 2, MPI_INT, node_));
    arenas_.assign(static_cast<std::size_t>(world_size), nullptr);
    for (int r = 0; r < node_size; ++r) {
      MPI_Aint size = 0;
      int unit = 0;
      void* base = nullptr;
      check_mpi(MPI_Win_shared_query(window_, r, &size, &unit, &base));
      const Arena& arena = all[static_cast<std::size_t>(r)];
      if (size == 0) continue;
      arenas_[static_cast<std::size_t>(arena.world_rank)] = static_cast<std::byte*>(base) + arena.shift;
    }
  }

  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::byte* local_ = nullptr;
  std::vector<std::byte*> arenas_;
};

}  // namespace

std::unique_ptr<PeerMemory> make_mpi_peer_memory(std::int64_t bytes, const Control* world) {
  return std::make_unique<MpiPeerMemory>(bytes, communicator_of(world));
}

}  // namespace refit::transport
