#pragma once
// One rank's storages as addresses: all that executors know of memory. Borrows everything.

#include <cstddef>
#include <vector>

#include "layout/layout.hpp"

namespace refit::transport {

/// Alignment of every storage in an arena, in bytes.
inline constexpr std::int64_t kStorageAlignment = 256;

/// Places of a rank's storages within one arena.
struct ArenaMap {
  std::vector<std::int64_t> offsets;  ///< bytes, one per storage
  std::int64_t bytes = 0;             ///< of the whole arena
  explicit ArenaMap(const layout::LocalLayout& layout);
};

/// The storages of one rank in memory.
class LocalMemory {
 public:
  LocalMemory() = default;
  /// Lays storages out in `arena` by ArenaMap.
  LocalMemory(const layout::LocalLayout& layout, std::byte* arena);
  /// Takes storages at given addresses.
  LocalMemory(const layout::LocalLayout& layout, std::vector<std::byte*> storages)
      : layout_(&layout), storages_(std::move(storages)) {}

  /// Returns the address of a place's first element of dtype `dtype`.
  std::byte* address(const layout::Place& place, DType dtype) const {
    return storages_[static_cast<std::size_t>(layout_->find(place.storage))] + place.offset * byte_size(dtype);
  }
  const std::vector<std::byte*>& storages() const { return storages_; }

 private:
  const layout::LocalLayout* layout_ = nullptr;
  std::vector<std::byte*> storages_;
};

}  // namespace refit::transport
