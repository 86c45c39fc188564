#pragma once
// Memory of this rank that nobody else maps.

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

/// Anonymous main memory, page-aligned and touched, so that whoever writes it first does not pay for it. Errors
/// (runtime): it cannot be allocated; says how much.
std::unique_ptr<Arena> make_host_arena(std::int64_t bytes);

}  // namespace refit::transport
