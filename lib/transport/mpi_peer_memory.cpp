#include <sys/statvfs.h>

#include <atomic>

#include "transport/mpi.hpp"
#include "transport/mpi_error.hpp"

namespace refit::transport {
namespace {

/// Where Open MPI keeps shared windows, and what the others map from as well.
constexpr const char* kSharedMemory = "/dev/shm";

class MpiPeerMemory final : public PeerMemory {
 public:
  explicit MpiPeerMemory(std::int64_t bytes) {
    int world_size = 0;
    int world_rank = 0;
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world_size));
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank));
    check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world_rank, MPI_INFO_NULL, &node_));
    require_space(bytes);
    void* base = nullptr;
    // One window, its parts apart: each rank's part begins on a page of its own.
    MPI_Info info = MPI_INFO_NULL;
    check_mpi(MPI_Info_create(&info));
    check_mpi(MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    check_mpi(MPI_Win_allocate_shared(static_cast<MPI_Aint>(bytes), 1, info, node_, &base, &window_));
    check_mpi(MPI_Info_free(&info));
    check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_));
    local_ = static_cast<std::byte*>(base);
    map_all(world_size, world_rank);
  }

  ~MpiPeerMemory() override {
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
  void require_space(std::int64_t bytes) {
    std::int64_t needed = bytes;
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, &needed, 1, MPI_INT64_T, MPI_SUM, node_));
    struct statvfs status {};
    if (statvfs(kSharedMemory, &status) != 0) return;
    const auto available = static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
    if (needed <= available) return;
    fail_runtime(
        "shared memory: {:.2f} GiB are needed for the gen arenas and {} has {:.2f} GiB free; enlarge it, or use "
        "--executor p2p or golden, which need none",
        static_cast<double>(needed) / (1 << 30), kSharedMemory, static_cast<double>(available) / (1 << 30));
  }

  void map_all(int world_size, int world_rank) {
    int node_size = 0;
    check_mpi(MPI_Comm_size(node_, &node_size));
    std::vector<int> world_ranks(static_cast<std::size_t>(node_size));
    check_mpi(MPI_Allgather(&world_rank, 1, MPI_INT, world_ranks.data(), 1, MPI_INT, node_));
    arenas_.assign(static_cast<std::size_t>(world_size), nullptr);
    for (int r = 0; r < node_size; ++r) {
      MPI_Aint size = 0;
      int unit = 0;
      void* base = nullptr;
      check_mpi(MPI_Win_shared_query(window_, r, &size, &unit, &base));
      arenas_[static_cast<std::size_t>(world_ranks[static_cast<std::size_t>(r)])] = static_cast<std::byte*>(base);
    }
  }

  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::byte* local_ = nullptr;
  std::vector<std::byte*> arenas_;
};

}  // namespace

std::unique_ptr<PeerMemory> make_mpi_peer_memory(std::int64_t bytes) { return std::make_unique<MpiPeerMemory>(bytes); }

}  // namespace refit::transport
