#include "layout/joined_layout.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/hash.hpp"

namespace refit::layout {

JoinedLayout::JoinedLayout(std::vector<Engine> engines) : engines_(std::move(engines)), first_{0} {
  for (const Engine& engine : engines_) first_.push_back(first_.back() + engine.ranks);
}

std::int32_t JoinedLayout::engine(Rank rank) const {
  const auto behind = std::ranges::upper_bound(first_, to_int(rank));
  return static_cast<std::int32_t>(behind - first_.begin()) - 1;
}

std::pair<const Layout*, Rank> JoinedLayout::own(Rank rank) const {
  const auto number = static_cast<std::size_t>(engine(rank));
  return {engines_[number].layout.get(), Rank{to_int(rank) - first_[number]}};
}

std::int32_t JoinedLayout::stage(Rank rank) const {
  const auto [layout, mine] = own(rank);
  return layout == nullptr ? 0 : layout->stage(mine);
}

std::int32_t JoinedLayout::stages() const {
  std::int32_t most = 1;
  for (const Engine& engine : engines_)
    if (engine.layout) most = std::max(most, engine.layout->stages());
  return most;
}

std::uint64_t JoinedLayout::placement_class(const Tensor& tensor) const {
  std::uint64_t result = 0;
  for (const Engine& engine : engines_)
    result = combine(result, engine.layout ? engine.layout->placement_class(tensor) : 0);
  return result;
}

std::optional<Format> JoinedLayout::format(const Tensor& tensor) const {
  for (const Engine& engine : engines_) {
    const auto found = engine.layout ? engine.layout->format(tensor) : std::nullopt;
    if (found) return found;
  }
  return std::nullopt;
}

void JoinedLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  const auto [layout, mine] = own(rank);
  if (layout != nullptr) layout->pieces(tensor, mine, out);
}

Storage JoinedLayout::storage(const StorageKey& key, Rank rank) const {
  const auto [layout, mine] = own(rank);
  REFIT_ASSERT(layout != nullptr);
  return layout->storage(key, mine);
}

void JoinedLayout::fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const {
  const auto [layout, mine] = own(rank);
  if (layout != nullptr) layout->fills(key, mine, out);
}

std::vector<StorageKey> JoinedLayout::constant_storages(Rank rank) const {
  const auto [layout, mine] = own(rank);
  return layout == nullptr ? std::vector<StorageKey>() : layout->constant_storages(mine);
}

std::string JoinedLayout::coordinates(Rank rank) const {
  const auto [layout, mine] = own(rank);
  return fmt::format("engine={}{}", engine(rank), layout == nullptr ? "" : " " + layout->coordinates(mine));
}

EngineLayout::EngineLayout(const Layout& side, std::int32_t engine) : side_(side) {
  if (side.engines() == 1) {
    ranks_ = side.ranks();
    return;
  }
  for (std::int32_t rank = 0; rank < side.ranks(); ++rank) {
    if (side.engine(Rank{rank}) != engine) continue;
    if (ranks_++ == 0) first_ = rank;
  }
}

std::optional<Format> EngineLayout::format(const Tensor& tensor) const {
  if (side_.engines() == 1) return side_.format(tensor);
  // Engines may differ, and the side's form is that of the first.
  std::vector<Piece> found;
  for (std::int32_t rank = 0; rank < ranks_ && found.empty(); ++rank) pieces(tensor, Rank{rank}, found);
  return found.empty() ? std::nullopt : std::optional(found.front().format);
}

std::vector<EngineLayout> engines_of(const Layout& side) {
  std::vector<EngineLayout> engines;
  for (std::int32_t engine = 0; engine < side.engines(); ++engine) engines.emplace_back(side, engine);
  return engines;
}

std::optional<UnlikeForm> find_unlike_form(const Layout& side, const std::vector<Tensor>& tensors) {
  if (side.engines() == 1) return std::nullopt;
  const std::vector<EngineLayout> engines = engines_of(side);
  for (const Tensor& tensor : tensors) {
    for (std::size_t e = 1; e < engines.size(); ++e) {
      const std::optional<Format> form = engines[e].format(tensor);
      if (form && form != side.format(tensor)) return UnlikeForm{tensor.index, static_cast<std::int32_t>(e), *form};
    }
  }
  return std::nullopt;
}

}  // namespace refit::layout
