#include "transport/memory.hpp"

#include "core/box.hpp"

namespace refit::transport {

ArenaMap::ArenaMap(const layout::LocalLayout& layout) {
  for (const layout::Storage& storage : layout.storages) {
    offsets.push_back(bytes);
    bytes = round_up(bytes + storage.bytes(), kStorageAlignment);
  }
}

LocalMemory::LocalMemory(const layout::LocalLayout& layout, std::byte* arena) : layout_(&layout) {
  for (std::int64_t offset : ArenaMap(layout).offsets) storages_.push_back(arena + offset);
}

}  // namespace refit::transport
