#include "session/staged.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/box.hpp"
#include "core/error.hpp"
#include "transport/together.hpp"

namespace refit::session {

Units::Units(const model::Model& model) : model_(model), layers_{-1} {
  for (const model::Tensor& tensor : model.tensors)
    if (tensor.layer >= 0) layers_.push_back(tensor.layer);
  std::ranges::sort(layers_);
  layers_.erase(std::ranges::unique(layers_).begin(), layers_.end());
}

std::size_t Units::of(const model::Tensor& tensor) const {
  return static_cast<std::size_t>(std::ranges::lower_bound(layers_, std::max(tensor.layer, -1)) - layers_.begin());
}

std::string Units::name(std::size_t unit) const {
  return unit == 0 ? "no layer" : fmt::format("layer {}", layers_[unit]);
}

std::vector<std::optional<std::size_t>> Units::of_storages(const layout::LocalLayout& local) const {
  std::vector<std::optional<std::size_t>> units(local.storages.size());
  for (const layout::LocalPiece& piece : local.pieces) {
    std::optional<std::size_t>& unit = units[static_cast<std::size_t>(piece.storage)];
    const model::Tensor& tensor = model_[piece.tensor];
    if (unit && *unit != of(tensor))
      fail_runtime("internal error: {} shares a storage with tensors of {}", tensor.name, name(*unit));
    unit = of(tensor);
  }
  return units;
}

namespace {

std::int64_t room_of(const layout::Storage& storage) { return round_up(storage.bytes(), transport::kStorageAlignment); }

/// Returns which units have a second place. `largest(bytes)`: the most of all ranks.
template <typename Largest>
std::vector<bool> choose(std::size_t count, const layout::LocalLayout* local,
                         const std::vector<std::optional<std::size_t>>& units, std::optional<std::int64_t> most_bytes,
                         const Largest& largest) {
  std::vector<bool> has;
  std::int64_t taken = 0;
  for (std::size_t unit = 0; unit < count; ++unit) {
    std::int64_t bytes = taken;
    for (std::size_t s = 0; s < units.size(); ++s)
      if (units[s] == unit) bytes += room_of(local->storages[s]);
    has.push_back(!most_bytes || largest(bytes) <= *most_bytes);
    if (has.back()) taken = bytes;
  }
  return has;
}

}  // namespace

std::int64_t staged_bytes(const model::Model& model, const layout::LocalLayout& local,
                          std::optional<std::int64_t> most_bytes) {
  const Units units(model);
  const std::vector<std::optional<std::size_t>> of = units.of_storages(local);
  const std::vector<bool> has = choose(units.size(), &local, of, most_bytes, [](std::int64_t bytes) { return bytes; });
  std::int64_t bytes = 0;
  for (std::size_t s = 0; s < of.size(); ++s)
    if (of[s] && has[*of[s]]) bytes += room_of(local.storages[s]);
  return bytes;
}

Staged::Staged(transport::Control& world, const model::Model& model, const layout::LocalLayout* local,
               std::optional<std::int64_t> most_bytes)
    : units_(model) {
  std::vector<std::optional<std::size_t>> units;
  transport::together(world, [&] {
    if (local != nullptr) units = units_.of_storages(*local);
  });
  has_ = choose(units_.size(), local, units, most_bytes, [&](std::int64_t bytes) { return world.max(bytes); });
  for (std::size_t s = 0; s < units.size(); ++s) {
    // Storages of constants alone never change.
    const bool is_staged = units[s] && has_[*units[s]];
    offsets_.push_back(is_staged ? bytes_ : -1);
    if (is_staged) bytes_ += room_of(local->storages[s]);
  }
}

transport::LocalMemory Staged::second(const layout::LocalLayout& local, const transport::LocalMemory& first,
                                      std::byte* memory) const {
  std::vector<std::byte*> storages = first.storages();
  for (std::size_t s = 0; s < storages.size(); ++s)
    if (offsets_[s] >= 0) storages[s] = memory + offsets_[s];
  return {local, std::move(storages)};
}

}  // namespace refit::session
