#include "transport/arena.hpp"

#include <sys/mman.h>

#include "core/error.hpp"

namespace refit::transport {
namespace {

class HostArena final : public Arena {
 public:
  explicit HostArena(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    if (bytes_ == 0) return;
    void* address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (address == MAP_FAILED)
      fail_runtime("main memory: an arena of {:.2f} GiB cannot be allocated", static_cast<double>(bytes) / (1 << 30));
    madvise(address, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(address);
  }
  ~HostArena() override {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  HostArena(const HostArena&) = delete;
  HostArena& operator=(const HostArena&) = delete;
  std::span<std::byte> span() const override { return {data_, bytes_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace

std::unique_ptr<Arena> make_host_arena(std::int64_t bytes) { return std::make_unique<HostArena>(bytes); }

}  // namespace refit::transport
