#include "kernels/delta.hpp"

#include "kernels/delta_items.hpp"
#include "kernels/launch.hpp"
#include "kernels/on_device.hpp"

namespace refit::kernels {

struct DeltaTable::Items {
  Kokkos::View<DeltaItem*, DeviceMemory> items;
  DeviceBuffer bits;
  std::int64_t count() const { return static_cast<std::int64_t>(items.size()); }
};

namespace {

/// Loads the kernels before the first one runs: as CopyTable, which says why.
void load_deltas([[maybe_unused]] const ExecutionSpace& space) {
  if constexpr (!kOnHost) {
    run_delta_count(space, nullptr, 0, nullptr);
    run_delta_encode(space, nullptr, {});
    run_delta_decode(space, nullptr, {});
    run_delta_keep(space, nullptr, 0, nullptr);
    space.fence();
  }
}

}  // namespace

DeltaTable::DeltaTable(const ExecutionSpace& space, std::span<const DeltaBlock> blocks) {
  [[maybe_unused]] static const bool loaded = (load_deltas(space), true);
  auto holder = std::make_shared<Items>();
  std::vector<DeltaItem> items = delta_items(blocks);
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < items.size(); ++i)
    if (blocks[i].kept != nullptr) bytes += bits_bytes(items[i]);
  holder->bits = DeviceBuffer(bytes);
  std::byte* next = holder->bits.data();
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (blocks[i].kept == nullptr) continue;
    items[i].bits = next;
    next += bits_bytes(items[i]);
  }
  space.fence();
  holder->items = on_device("refit::delta_items", items);
  items_ = std::move(holder);
}

void DeltaTable::count(const ExecutionSpace& space, std::uint32_t* counts) const {
  if (items_ != nullptr && items_->count() > 0) run_delta_count(space, items_->items.data(), items_->count(), counts);
}

void DeltaTable::encode(const ExecutionSpace& space, std::span<const DeltaJob> jobs) const {
  if (!jobs.empty()) run_delta_encode(space, items_->items.data(), jobs);
}

void DeltaTable::decode(const ExecutionSpace& space, std::span<const DeltaJob> jobs) const {
  if (!jobs.empty()) run_delta_decode(space, items_->items.data(), jobs);
}

void DeltaTable::keep(const ExecutionSpace& space, const std::uint32_t* counts) const {
  if (items_ != nullptr && items_->count() > 0) run_delta_keep(space, items_->items.data(), items_->count(), counts);
}

std::int64_t DeltaTable::bytes() const { return items_ == nullptr ? 0 : items_->bits.bytes(); }

}  // namespace refit::kernels
