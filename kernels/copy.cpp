#include "kernels/copy_items.hpp"
#include "kernels/launch.hpp"

namespace refit::kernels {

struct CopyTable::Items {
  Kokkos::View<CopyItem*, DeviceMemory> view;
  std::int64_t counts[kCopyKinds] = {0, 0, 0};
};

CopyTable::CopyTable(const ExecutionSpace& space, std::span<const Tile> tiles) {
  for (const Tile& tile : tiles) {
    bytes_read_ += product(tile.extent) * byte_size(tile.from);
    bytes_written_ += product(tile.extent) * byte_size(tile.to);
  }
  const std::vector<CopyItem> items = copy_items(tiles, copy_limits());
  auto holder = std::make_shared<Items>();
  using Memory = Kokkos::View<CopyItem*, DeviceMemory>;
  holder->view = Memory(Kokkos::ViewAllocateWithoutInitializing("refit::copy_items"), items.size());
  using Source = Kokkos::View<const CopyItem*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  space.fence();
  Kokkos::deep_copy(holder->view, Source(items.data(), items.size()));
  for (const CopyItem& item : items) ++holder->counts[static_cast<int>(kind_of(item))];
  items_ = std::move(holder);
}

void CopyTable::run(const ExecutionSpace& space) const {
  if (items_ == nullptr) return;
  run_copies(space, items_->view.data(), items_->counts);
}

void copy_bytes(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes) {
  run_range(space, source, destination, bytes);
  space.fence();
}

}  // namespace refit::kernels
