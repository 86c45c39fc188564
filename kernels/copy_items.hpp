#pragma once
// The items of a copy table: tiles in their simplest form, cut to a bounded size.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"

namespace refit::kernels {

/// A small strided copy of up to four dimensions, the last one innermost. Extents and strides are in units of
/// `unit` bytes where bits are moved (unit > 0), in elements where values are cast or transformed (unit == 0).
struct CopyItem {
  const std::byte* source;
  std::byte* destination;
  std::int64_t extent[4];
  std::int64_t source_stride[4];
  std::int64_t destination_stride[4];
  std::int32_t unit;
  std::int8_t along;  ///< source_dimension
  bool streams;       ///< part of a table too large for any cache
  DType from;
  DType to;
  Transform transform;
  std::int32_t signal;  ///< index into the table's signals; -1: none
  const std::uint64_t* wait;
};

/// Returns whether a tile's values keep their bits.
inline bool moves_bits(const Tile& tile) { return tile.from == tile.to && tile.transform == Transform::none; }

/// A dimension of a copy; strides in elements.
struct CopyDimension {
  std::int64_t extent, source, destination;
};

/// Returns the tile's dimensions without those of one element, by falling stride of the destination (the order of
/// copying is free: transposed ends become rows), and with neighbours merged where both ends allow.
std::vector<CopyDimension> collapse(const Tile& tile);

/// A flag that a table raises: the worker that finishes the last of its items sets it.
struct CopySignal {
  std::uint64_t* flag;
  std::uint64_t items;
  unsigned long long finished;  ///< over all runs; of the type of Kokkos' atomics
};

/// The distinct flags that a table's tiles raise.
class CopySignals {
 public:
  /// The index of a tile's flag; -1 for null.
  std::int32_t index_of(std::uint64_t* flag);
  void count_item(std::int32_t index) {
    if (index >= 0) ++all_[static_cast<std::size_t>(index)].items;
  }
  const std::vector<CopySignal>& all() const { return all_; }

 private:
  std::vector<CopySignal> all_;
  std::map<std::uint64_t*, std::int32_t> index_of_;
};

struct QuantiseItem;

/// A table in memory of the execution space.
struct CopyRun {
  const CopyItem* items;
  const QuantiseItem* quantised;
  CopySignal* signals;
  std::uint64_t epoch;
};

inline constexpr std::int64_t kTransposeBlock = 16;

/// The dimension (0 to 2) along which the source lies closer together than along the innermost one; -1 where there is
/// none, or none of a useful length, so that rows are copied as they are.
int source_dimension(const CopyItem& item);

/// Limits that the processor that copies sets to its items.
struct CopyLimits {
  std::int64_t bytes;               ///< most bytes of an item
  std::int64_t transposed_columns;  ///< innermost extent of items whose source lies along another dimension
  std::int64_t streamed_bytes = TableSizes().streamed_bytes;  ///< of a table
};

/// The way in which an item is copied, in the order in which a table's items lie.
enum class CopyKind : std::uint8_t {
  moved,
  shifted,  ///< long rows that are not of 16-byte units at both ends
  converted,
  transposed
};
inline constexpr int kCopyKinds = 4;
inline CopyKind kind_of(const CopyItem& item) {
  constexpr std::int64_t kShortRow = 64;  // bytes: below, a row has too few whole chunks
  if (item.along >= 0) return CopyKind::transposed;
  if (item.unit == 0) return CopyKind::converted;
  const bool rows = item.source_stride[3] == 1 && item.destination_stride[3] == 1;
  return rows && item.unit < 16 && item.extent[3] * item.unit >= kShortRow ? CopyKind::shifted : CopyKind::moved;
}

/// Collapses every tile's dimensions, widens its unit and cuts it into items of at most limits.bytes, in the order of
/// item_order.hpp. Appends the tiles' signals to `signals`. Tiles that are quantised are left to quantise_items.
std::vector<CopyItem> copy_items(std::span<const Tile> tiles, const CopyLimits& limits, CopySignals& signals);

/// Returns the limits of a table: the processor's, where `sizes` says nothing else.
CopyLimits limits_of(const TableSizes& sizes);

/// Returns the processor's limits. It is defined in copy_host.cpp and copy_device.cpp, of which one is built.
CopyLimits copy_limits();
/// Enqueues the copies of a table's items, `counts` of each kind. `most_teams`: TableSizes'.
void run_copies(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kCopyKinds],
                std::int64_t most_teams = 0);
/// On a device only: launches every kernel of copies once, with nothing to do, so that it is loaded.
void load_copies(const ExecutionSpace& space);
/// Enqueues the copy of a plain range.
void run_range(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes);

}  // namespace refit::kernels
