#include "kernels/parts.hpp"

#include <algorithm>
#include <vector>

#include "kernels/launch.hpp"
#include "kernels/on_device.hpp"
#include "kernels/part_items.hpp"

namespace refit::kernels {

struct PartTable::Items {
  /// Items of one kind of quantiser.
  struct Kind {
    int kind;
    std::int64_t first, count;
  };
  Kokkos::View<PartItem*, DeviceMemory> amax, parts;
  std::vector<Kind> kinds;
};

PartTable::PartTable(const ExecutionSpace& space, std::span<const Part> parts) {
  const std::vector<PartItem> amax = amax_items(parts);
  const std::vector<PartItem> quantised = part_items(parts);
  auto holder = std::make_shared<Items>();
  for (std::int64_t i = 0; i < std::ssize(quantised); ++i) {
    const int kind = quantised[static_cast<std::size_t>(i)].kind;
    if (holder->kinds.empty() || holder->kinds.back().kind != kind) holder->kinds.push_back({kind, i, 0});
    ++holder->kinds.back().count;
  }
  if constexpr (!kOnHost) {  // as CopyTable, which says why
    run_amax(space, nullptr, 0);
    for (const Items::Kind& kind : holder->kinds) run_parts(space, nullptr, 0, kind.kind);
  }
  space.fence();
  holder->amax = on_device("refit::amax_items", amax);
  holder->parts = on_device("refit::part_items", quantised);
  items_ = std::move(holder);
}

void PartTable::raise_amax(const ExecutionSpace& space) const {
  if (items_ == nullptr || items_->amax.size() == 0) return;
  run_amax(space, items_->amax.data(), static_cast<std::int64_t>(items_->amax.size()));
}

void PartTable::quantise(const ExecutionSpace& space) const {
  if (items_ == nullptr) return;
  for (const Items::Kind& kind : items_->kinds) {
    run_parts(space, items_->parts.data() + kind.first, kind.count, kind.kind);
  }
}

}  // namespace refit::kernels
