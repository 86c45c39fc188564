#include "kernels/engine_copies.hpp"

#include <algorithm>
#include <tuple>

#include "kernels/copy_items.hpp"
#include "kernels/item_order.hpp"

namespace refit::kernels {
namespace {

/// Most copies of rows that one tile of more dimensions becomes.
constexpr std::int64_t kMostPlanes = 1024;

/// Calls copy(source offset, destination offset), in elements, for every index of `outer`.
template <typename Copy>
void for_each(const std::vector<CopyDimension>& outer, std::size_t dimension, std::int64_t source,
              std::int64_t destination, const Copy& copy) {
  if (dimension == outer.size()) return copy(source, destination);
  const CopyDimension& of = outer[dimension];
  for (std::int64_t i = 0; i < of.extent; ++i)
    for_each(outer, dimension + 1, source + i * of.source, destination + i * of.destination, copy);
}

/// Appends the copies of rows that a tile consists of; returns false where engines cannot copy it.
bool append_copies(const Tile& tile, const EngineSizes& sizes, std::vector<EngineCopy>& copies) {
  if (!moves_bits(tile) || tile.wait != nullptr || tile.signal != nullptr) return false;
  const std::int64_t size = byte_size(tile.from);
  std::vector<CopyDimension> outer = collapse(tile);
  EngineCopy copy{tile.source, tile.destination, size};
  copy.peer = tile.peer;
  if (!outer.empty()) {
    if (outer.back().source != 1 || outer.back().destination != 1) return false;
    copy.row = size * outer.back().extent;
    outer.pop_back();
  }
  if (!outer.empty() && copy.row < sizes.split_row_bytes) {
    const CopyDimension& rows = outer.back();
    copy.rows = rows.extent;
    copy.source_pitch = size * rows.source;
    copy.destination_pitch = size * rows.destination;
    if (copy.row < sizes.least_row_bytes || copy.source_pitch < copy.row || copy.destination_pitch < copy.row)
      return false;
    outer.pop_back();
    std::int64_t planes = 1;
    for (const CopyDimension& each : outer) planes *= each.extent;
    if (planes > kMostPlanes) return false;
  }
  for_each(outer, 0, 0, 0, [&](std::int64_t source, std::int64_t destination) {
    EngineCopy part = copy;
    part.source += size * source;
    part.destination += size * destination;
    copies.push_back(part);
  });
  return true;
}

/// The allocations of both ends of a copy.
struct Placed {
  EngineCopy copy;
  const void* source;
  const void* destination;

  bool shares_allocations(const Placed& other) const {
    return source == other.source && destination == other.destination;
  }
};

std::vector<Placed> placed(const std::vector<EngineCopy>& copies, const AllocationOf& allocation) {
  std::vector<Placed> result;
  result.reserve(copies.size());
  for (const EngineCopy& copy : copies) result.push_back({copy, allocation(copy.source), allocation(copy.destination)});
  return result;
}

/// Returns contiguous copies with neighbours at both ends merged.
std::vector<EngineCopy> merge_neighbours(std::vector<Placed> copies) {
  std::ranges::sort(copies, {}, [](const Placed& each) { return std::tuple(each.copy.peer, each.copy.destination); });
  std::vector<EngineCopy> merged;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const EngineCopy& next = copies[i].copy;
    if (i > 0 && copies[i].shares_allocations(copies[i - 1])) {
      EngineCopy& last = merged.back();
      if (last.peer == next.peer && last.source + last.row == next.source &&
          last.destination + last.row == next.destination) {
        last.row += next.row;
        continue;
      }
    }
    merged.push_back(next);
  }
  return merged;
}

/// Returns copies of rows with those of equal shape at equal distances merged to planes.
std::vector<EngineCopy> merge_planes(std::vector<Placed> copies) {
  const auto phase = [](const std::byte* data, std::int64_t pitch) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(pitch));
  };
  // Planes of one copy are whole pitches apart, so rows that alternate with others (gate and up) are not neighbours.
  std::ranges::sort(copies, {}, [&](const Placed& each) {
    const EngineCopy& of = each.copy;
    return std::tuple(of.peer, of.row, of.rows, of.source_pitch, of.destination_pitch,
                      phase(of.source, of.source_pitch), phase(of.destination, of.destination_pitch), of.destination);
  });
  std::vector<EngineCopy> merged;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const EngineCopy& next = copies[i].copy;
    if (i > 0 && copies[i].shares_allocations(copies[i - 1])) {
      EngineCopy& last = merged.back();
      const bool is_alike = last.peer == next.peer && last.row == next.row && last.rows == next.rows &&
                            last.source_pitch == next.source_pitch && last.destination_pitch == next.destination_pitch;
      const std::int64_t source = next.source - last.source;
      const std::int64_t destination = next.destination - last.destination;
      if (is_alike && source > 0 && source % last.source_pitch == 0 && destination % last.destination_pitch == 0) {
        const std::int64_t source_rows = source / last.source_pitch / last.planes;
        const std::int64_t destination_rows = destination / last.destination_pitch / last.planes;
        if (last.planes == 1 && source_rows >= last.rows && destination_rows >= last.rows) {
          last.source_rows = source_rows;
          last.destination_rows = destination_rows;
        }
        if (source == last.planes * last.source_rows * last.source_pitch &&
            destination == last.planes * last.destination_rows * last.destination_pitch) {
          ++last.planes;
          continue;
        }
      }
    }
    merged.push_back(next);
    merged.back().source_rows = merged.back().destination_rows = next.rows;
  }
  return merged;
}

/// Returns the tile of a copy that is left to a kernel.
Tile tile_of(const EngineCopy& copy) {
  Tile tile{copy.source, copy.destination, {copy.row}, {1}, {1}, DType::u8, DType::u8};
  if (!copy.is_contiguous()) {
    tile.extent = {copy.planes, copy.rows, copy.row};
    tile.source_strides = {copy.source_rows * copy.source_pitch, copy.source_pitch, 1};
    tile.destination_strides = {copy.destination_rows * copy.destination_pitch, copy.destination_pitch, 1};
  }
  tile.peer = copy.peer;
  return tile;
}

void append_parts(const EngineCopy& copy, std::int64_t most, std::vector<EngineCopy>& parts) {
  for (std::int64_t begin = 0; begin < copy.row; begin += most) {
    parts.push_back(copy);
    parts.back().source += begin;
    parts.back().destination += begin;
    parts.back().row = std::min(most, copy.row - begin);
  }
}

/// Sorts contiguous copies, the longest first; returns how many of them the host can enqueue while engines are busy
/// with those before.
std::size_t ahead_of_engines(const std::vector<EngineCopy>& strided, std::vector<EngineCopy>& contiguous,
                             std::int64_t host_bytes) {
  std::ranges::stable_sort(contiguous, std::ranges::greater(), &EngineCopy::bytes);
  std::int64_t bytes = 0;
  std::int64_t count = std::ssize(strided);
  for (const EngineCopy& copy : strided) bytes += copy.bytes();
  std::size_t taken = 0;
  for (const EngineCopy& copy : contiguous) {
    bytes += copy.bytes();
    if (bytes < ++count * host_bytes) break;
    ++taken;
  }
  return taken;
}

std::vector<EngineCopy> in_turns(std::vector<EngineCopy> copies) {
  std::ranges::stable_sort(copies, std::ranges::greater(), &EngineCopy::bytes);
  std::vector<UnorderedItem<EngineCopy>> items;
  for (const EngineCopy& copy : copies) items.push_back({copy, 0, copy.peer, copy.bytes()});
  return ordered(items);
}

}  // namespace

std::vector<EngineCopy> take_engine_copies(std::vector<Tile>& tiles, const EngineSizes& sizes,
                                           const AllocationOf& allocation) {
  if (sizes.least_bytes <= 0) return {};
  std::vector<EngineCopy> copies;
  std::erase_if(tiles,
                [&](const Tile& tile) { return product(tile.extent) == 0 || append_copies(tile, sizes, copies); });
  const auto strided_begin = std::ranges::stable_partition(copies, &EngineCopy::is_contiguous).begin();
  std::vector<EngineCopy> strided, contiguous;
  for (const EngineCopy& copy : merge_planes(placed({strided_begin, copies.end()}, allocation))) {
    if (copy.bytes() >= sizes.least_strided_bytes) {
      strided.push_back(copy);
    } else {
      tiles.push_back(tile_of(copy));
    }
  }
  for (const EngineCopy& copy : merge_neighbours(placed({copies.begin(), strided_begin}, allocation))) {
    if (copy.bytes() >= sizes.least_bytes) {
      append_parts(copy, sizes.most_bytes, contiguous);
    } else {
      tiles.push_back(tile_of(copy));
    }
  }
  const std::size_t taken = ahead_of_engines(strided, contiguous, sizes.host_bytes);
  for (std::size_t i = taken; i < contiguous.size(); ++i) tiles.push_back(tile_of(contiguous[i]));
  contiguous.resize(taken);
  std::vector<EngineCopy> result = in_turns(std::move(strided));
  for (const EngineCopy& copy : in_turns(std::move(contiguous))) result.push_back(copy);
  return result;
}

}  // namespace refit::kernels
