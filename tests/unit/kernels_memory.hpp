#pragma once
// Vectors of bytes that tests and kernels can both address. On a machine with a device they lie in pinned memory, whose
// blocks are kept and used again, as the system takes longer to pin one than most tests take.

#include <bit>
#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"

namespace refit::kernels_test {

class PinnedPool {
 public:
  static PinnedPool& instance() {
    static auto* pool = new PinnedPool;  // lives as long as the process: whoever uses it may be static
    return *pool;
  }

  std::byte* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    auto& free = free_[std::bit_ceil(bytes)];
    if (free.empty()) free.emplace_back(static_cast<std::int64_t>(std::bit_ceil(bytes)));
    kernels::SharedBuffer block = free.back();
    free.pop_back();
    used_[block.data()] = block;
    return block.data();
  }
  void give_back(std::byte* data) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(data);
    free_[static_cast<std::size_t>(found->second.bytes())].push_back(found->second);
    used_.erase(found);
  }

 private:
  std::mutex mutex_;
  std::map<std::size_t, std::vector<kernels::SharedBuffer>> free_;
  std::map<std::byte*, kernels::SharedBuffer> used_;
};

/// Plain memory on hosts, where sanitizers watch its ends.
template <typename T>
struct SharedAllocator {
  static_assert(sizeof(T) == 1);
  using value_type = T;
  std::byte* allocate(std::size_t bytes) {
    if (kernels::Runtime::has_device()) return PinnedPool::instance().take(bytes);
    return static_cast<std::byte*>(::operator new(bytes));
  }
  void deallocate(std::byte* data, std::size_t) {
    if (kernels::Runtime::has_device()) return PinnedPool::instance().give_back(data);
    ::operator delete(data);
  }
  friend bool operator==(const SharedAllocator&, const SharedAllocator&) = default;
};

using Bytes = std::vector<std::byte, SharedAllocator<std::byte>>;

}  // namespace refit::kernels_test
