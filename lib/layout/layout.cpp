#include "layout/layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace refit::layout {

std::string Storage::title() const { return key.chunk < 0 ? name : fmt::format("chunk {}: {}", key.chunk, name); }

Place place_of(const Piece& piece, const Box& part) {
  Place place = piece.place;
  place.offset += offset_of(relative(part, piece.box), piece.place.strides);
  return place;
}

namespace {

/// Returns the place of `key` among sorted keys, or the place where it would be.
auto lower(const LocalLayout& local, const StorageKey& key) {
  return std::lower_bound(local.by_key.begin(), local.by_key.end(), key,
                          [](const auto& entry, const StorageKey& wanted) { return entry.first < wanted; });
}

}  // namespace

bool LocalLayout::has(const StorageKey& key) const {
  const auto found = lower(*this, key);
  return found != by_key.end() && found->first == key;
}

std::int32_t LocalLayout::find(const StorageKey& key) const {
  const auto found = lower(*this, key);
  REFIT_ASSERT(found != by_key.end() && found->first == key);
  return found->second;
}

LocalLayout materialise(const Layout& layout, const std::vector<Tensor>& tensors, Rank rank) {
  LocalLayout local;
  std::map<StorageKey, std::int32_t> known;
  std::vector<Piece> pieces;
  std::vector<Fill> fills;
  for (const Tensor& tensor : tensors) {
    pieces.clear();
    layout.pieces(tensor, rank, pieces);
    for (const Piece& piece : pieces) {
      const auto [entry, is_new] =
          known.try_emplace(piece.place.storage, static_cast<std::int32_t>(local.storages.size()));
      if (is_new) local.storages.push_back(layout.storage(piece.place.storage, rank));
      local.pieces.push_back({tensor.index, entry->second, piece});
    }
  }
  for (const auto& storage : layout.constant_storages(rank)) {
    const auto [entry, is_new] = known.try_emplace(storage, static_cast<std::int32_t>(local.storages.size()));
    if (is_new) local.storages.push_back(layout.storage(storage, rank));
  }
  for (std::size_t i = 0; i < local.storages.size(); ++i) {
    fills.clear();
    layout.fills(local.storages[i].key, rank, fills);
    for (const Fill& fill : fills) local.fills.push_back({static_cast<std::int32_t>(i), fill});
  }
  local.by_key.assign(known.begin(), known.end());
  return local;
}

}  // namespace refit::layout
