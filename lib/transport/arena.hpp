#pragma once
// Memory of this rank that no other rank maps.

#include <cstddef>
#include <memory>
#include <span>

namespace refit::transport {

/// One allocation, aligned for every storage (kStorageAlignment); its contents are not initialised.
class Arena {
 public:
  virtual ~Arena() = default;
  virtual std::span<std::byte> span() const = 0;
};

/// Allocates anonymous main memory, page-aligned and touched, so that the first writer does not pay for it. Errors
/// (runtime): it cannot be allocated; the message has the amount.
std::unique_ptr<Arena> make_host_arena(std::int64_t bytes);

}  // namespace refit::transport
