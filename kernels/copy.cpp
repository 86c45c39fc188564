#include "kernels/copy_items.hpp"
#include "kernels/launch.hpp"
#include "kernels/on_device.hpp"
#include "kernels/quantise_items.hpp"

namespace refit::kernels {

namespace {

/// Loads the kernels of all tables before the first one runs. A device loads a kernel when it is first launched, and
/// may wait for running kernels before it does: in a refit these are messages of other ranks, which may wait for this
/// rank.
void load_kernels([[maybe_unused]] const ExecutionSpace& space) {
  if constexpr (!kOnHost) {
    load_copies(space);
    load_quantisers(space);
    space.fence();
  }
}

}  // namespace

struct CopyTable::Items {
  Kokkos::View<CopyItem*, DeviceMemory> items;
  Kokkos::View<CopySignal*, DeviceMemory> signals;
  Kokkos::View<QuantiseItem*, DeviceMemory> quantised;
  std::int64_t counts[kCopyKinds] = {};
  std::int64_t quantised_counts[kQuantiseKinds] = {};
  std::int64_t most_teams = 0;
};

CopyTable::CopyTable(const ExecutionSpace& space, std::span<const Tile> tiles, const TableSizes& sizes) {
  for (const Tile& tile : tiles) {
    bytes_read_ +=
        tile.transform == Transform::quantise ? kernels::bytes_read(tile) : product(tile.extent) * byte_size(tile.from);
    if (tile.destination != nullptr) bytes_written_ += product(tile.extent) * byte_size(tile.to);
  }
  [[maybe_unused]] static const bool loaded = (load_kernels(space), true);
  CopySignals signals;
  const std::vector<CopyItem> items = copy_items(tiles, limits_of(sizes), signals);
  const std::vector<QuantiseItem> quantised = quantise_items(tiles, sizes.quantised_elements, signals);
  auto holder = std::make_shared<Items>();
  space.fence();
  holder->items = on_device("refit::copy_items", items);
  holder->quantised = on_device("refit::quantise_items", quantised);
  holder->signals = on_device("refit::copy_signals", signals.all());
  holder->most_teams = sizes.most_teams;
  for (const CopyItem& item : items) ++holder->counts[static_cast<int>(kind_of(item))];
  for (const QuantiseItem& item : quantised) ++holder->quantised_counts[static_cast<int>(item.kind)];
  items_ = std::move(holder);
}

void CopyTable::run(const ExecutionSpace& space, std::uint64_t epoch) const {
  if (items_ == nullptr) return;
  const CopyRun run{items_->items.data(), items_->quantised.data(), items_->signals.data(), epoch};
  run_copies(space, run, items_->counts, items_->most_teams);
  run_quantised(space, run, items_->quantised_counts);
}

void copy_bytes(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes) {
  run_range(space, source, destination, bytes);
  space.fence();
}

}  // namespace refit::kernels
