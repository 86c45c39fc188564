#include "kernels/copy_items.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "kernels/item_order.hpp"

namespace refit::kernels {

namespace {

bool divides(std::int64_t unit, const CopyItem& item, std::int64_t size) {
  bool fits = reinterpret_cast<std::uintptr_t>(item.source) % static_cast<std::uintptr_t>(unit) == 0 &&
              reinterpret_cast<std::uintptr_t>(item.destination) % static_cast<std::uintptr_t>(unit) == 0 &&
              item.extent[3] * size % unit == 0;
  for (int d = 0; d < 3; ++d) {
    fits = fits && item.source_stride[d] * size % unit == 0 && item.destination_stride[d] * size % unit == 0;
  }
  return fits;
}

/// Rewrites an item that moves bits in the widest unit that its addresses, strides and rows allow.
void widen(CopyItem& item) {
  const std::int64_t size = byte_size(item.from);
  std::int64_t unit = size;
  if (item.source_stride[3] == 1 && item.destination_stride[3] == 1) {
    while (unit > 1 && !divides(unit, item, size)) unit /= 2;
    while (unit < 16 && divides(2 * unit, item, size)) unit *= 2;
  }
  item.unit = static_cast<std::int32_t>(unit);
  if (unit == size) return;
  item.extent[3] = item.extent[3] * size / unit;
  for (int d = 0; d < 3; ++d) {
    item.source_stride[d] = item.source_stride[d] * size / unit;
    item.destination_stride[d] = item.destination_stride[d] * size / unit;
  }
}

CopyItem whole_item(const Tile& tile, bool streams) {
  CopyItem item{tile.source, tile.destination, {1, 1, 1, 1}, {0, 0, 0, 1},   {0, 0, 0, 1}, 0,        -1,
                streams,     tile.from,        tile.to,      tile.transform, -1,           tile.wait};
  const std::vector<CopyDimension> dimensions = collapse(tile);
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    const std::size_t d = i + 4 - dimensions.size();
    item.extent[d] = dimensions[i].extent;
    item.source_stride[d] = dimensions[i].source;
    item.destination_stride[d] = dimensions[i].destination;
  }
  if (moves_bits(tile)) widen(item);
  item.along = static_cast<std::int8_t>(source_dimension(item));
  return item;
}

std::int64_t volume(const CopyItem& item) { return item.extent[0] * item.extent[1] * item.extent[2] * item.extent[3]; }

/// Appends `item` in parts of at most `step` units of dimension d, each cut further by `cut`.
template <typename Cut>
void split(const CopyItem& item, int d, std::int64_t step, const Cut& cut) {
  const std::int64_t source_bytes = item.source_stride[d] * (item.unit != 0 ? item.unit : byte_size(item.from));
  const std::int64_t bytes = item.destination_stride[d] * (item.unit != 0 ? item.unit : byte_size(item.to));
  for (std::int64_t i = 0; i < item.extent[d]; i += step) {
    CopyItem part = item;
    part.extent[d] = std::min(step, item.extent[d] - i);
    part.source += i * source_bytes;
    part.destination += i * bytes;
    cut(part);
  }
}

/// Appends `item` cut along its outermost dimensions until no part has more than `limit` units.
void append(const CopyItem& item, std::int64_t limit, std::vector<CopyItem>& out) {
  const std::int64_t all = volume(item);
  if (all <= limit) {
    out.push_back(item);
    out.back().along = static_cast<std::int8_t>(source_dimension(item));
    return;
  }
  int d = 0;
  while (item.extent[d] == 1) ++d;
  const std::int64_t step = std::max<std::int64_t>(1, limit / (all / item.extent[d]));
  split(item, d, step, [limit, &out](const CopyItem& part) { append(part, limit, out); });
}

}  // namespace

std::vector<CopyDimension> collapse(const Tile& tile) {
  std::vector<CopyDimension> dimensions;
  for (int d = 0; d < tile.extent.size(); ++d) {
    if (tile.extent[d] != 1) {
      dimensions.push_back({tile.extent[d], tile.source_strides[d], tile.destination_strides[d]});
    }
  }
  std::stable_sort(dimensions.begin(), dimensions.end(), [](const CopyDimension& a, const CopyDimension& b) {
    return std::abs(a.destination) > std::abs(b.destination);
  });
  std::vector<CopyDimension> merged;
  for (const CopyDimension& next : dimensions) {
    if (!merged.empty() && merged.back().source == next.source * next.extent &&
        merged.back().destination == next.destination * next.extent) {
      merged.back() = {merged.back().extent * next.extent, next.source, next.destination};
    } else {
      merged.push_back(next);
    }
  }
  return merged;
}

int source_dimension(const CopyItem& item) {
  constexpr std::int64_t kShortest = kTransposeBlock / 2;
  int result = -1;
  if (item.extent[3] < kShortest || item.transform != Transform::none) return result;
  std::int64_t closest = std::abs(item.source_stride[3]);
  for (int d = 0; d < 3; ++d) {
    const std::int64_t stride = std::abs(item.source_stride[d]);
    if (item.extent[d] < kShortest || stride == 0 || stride >= closest) continue;
    closest = stride;
    result = d;
  }
  return result;
}

std::int32_t CopySignals::index_of(std::uint64_t* flag) {
  if (flag == nullptr) return -1;
  const auto [entry, is_new] = index_of_.try_emplace(flag, static_cast<std::int32_t>(all_.size()));
  if (is_new) all_.push_back({flag, 0, 0});
  return entry->second;
}

CopyLimits limits_of(const TableSizes& sizes) {
  CopyLimits limits = copy_limits();
  if (sizes.item_bytes > 0) limits.bytes = sizes.item_bytes;
  limits.streamed_bytes = sizes.streamed_bytes;
  return limits;
}

std::vector<CopyItem> copy_items(std::span<const Tile> tiles, const CopyLimits& limits, CopySignals& signals) {
  std::vector<UnorderedItem<CopyItem>> items;
  std::vector<CopyItem> parts;
  std::int64_t bytes = 0;
  for (const Tile& tile : tiles) bytes += product(tile.extent) * byte_size(tile.to);
  for (const Tile& tile : tiles) {
    if (tile.transform == Transform::quantise) continue;
    REFIT_ASSERT(moves_bits(tile) || (is_castable(tile.from) && is_castable(tile.to)));
    REFIT_ASSERT(tile.extent.size() <= kWalkedDimensions);
    REFIT_ASSERT(tile.source_strides.size() == tile.extent.size());
    REFIT_ASSERT(tile.destination_strides.size() == tile.extent.size());
    if (product(tile.extent) == 0) continue;
    CopyItem item = whole_item(tile, bytes >= limits.streamed_bytes);
    item.signal = signals.index_of(tile.signal);
    const std::int64_t size = item.unit != 0 ? item.unit : std::max(byte_size(item.from), byte_size(item.to));
    const std::int64_t columns = item.along >= 0 ? limits.transposed_columns : item.extent[3];
    split(item, 3, columns,
          [&](const CopyItem& part) { append(part, std::max<std::int64_t>(1, limits.bytes / size), parts); });
    for (const CopyItem& part : parts) {
      signals.count_item(part.signal);
      items.push_back({part, static_cast<int>(kind_of(part)), tile.peer, size * volume(part)});
    }
    parts.clear();
  }
  return ordered(items);
}

}  // namespace refit::kernels
