#include "transport/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/host_memory.hpp"
#include "transport/places.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

/// Checks before anything is allocated: the kernel ends processes that go beyond the limits of files or memory.
void require_free(std::int64_t bytes) {
  if (bytes < 0) fail_usage("shared memory of {} bytes: the number must not be negative", bytes);
  std::int64_t available = available_memory();
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    available = std::min(available, static_cast<std::int64_t>(limit.rlim_cur));
  if (bytes > available) {
    fail_runtime("shared memory: {:.2f} GiB are needed, and {:.2f} GiB are there (free memory, or ulimit -f)",
                 gib(bytes), gib(available));
  }
}

/// One arena per rank.
class SharedPeerMemory final : public PeerMemory {
 public:
  SharedPeerMemory(Control& world, std::int64_t bytes) {
    require_memory(world, places_of(world).hosts[static_cast<std::size_t>(world.rank())], bytes,
                   "use the executors p2p or golden, which need no shared memory");
    together(world, [&] { arena_ = SharedMemory(bytes); });
    const std::vector<OwnedBlock> arena{{"refit's own memory", arena_.data(), bytes}};
    all_ = make_foreign_host_memory(world, arena);
  }

  std::byte* local() const override { return arena_.data(); }
  std::byte* map(int rank) const override { return all_->map(rank); }
  void fence() override { all_->fence(); }
  std::string note() const override { return all_->note(); }

 private:
  SharedMemory arena_;
  std::unique_ptr<PeerMemory> all_;
};

}  // namespace

SharedMemory::SharedMemory(std::int64_t bytes) {
  require_free(bytes);
  if (bytes == 0) return;
  SharedMemory made;
  const auto check = [bytes](bool ok, const char* what) {
    if (!ok) fail_runtime("shared memory of {:.2f} GiB: {}: {}", gib(bytes), what, std::strerror(errno));
  };
  made.file_ = memfd_create("refit", MFD_CLOEXEC);
  check(made.file_ >= 0, "memfd_create");
  check(ftruncate(made.file_, bytes) == 0, "ftruncate");
  // Pages that are missing would end the process at its first store.
  int taken = 0;
  do {
    taken = fallocate(made.file_, 0, 0, bytes);
  } while (taken != 0 && errno == EINTR);
  check(taken == 0, "fallocate");
  void* data = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, made.file_, 0);
  check(data != MAP_FAILED, "mmap");
  made.data_ = static_cast<std::byte*>(data);
  made.bytes_ = bytes;
  *this = std::move(made);
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(bytes_));
  if (file_ >= 0) close(file_);
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::unique_ptr<PeerMemory> make_shared_peer_memory(Control& world, std::int64_t bytes) {
  return std::make_unique<SharedPeerMemory>(world, bytes);
}

}  // namespace refit::transport
