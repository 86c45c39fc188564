#pragma once
// The items of a copy table: tiles in their simplest form, cut to a bounded size.

#include <cstdint>
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
  bool streams;  ///< part of a table too large for any cache
  DType from;
  DType to;
  Transform transform;
};

/// Collapses every tile's dimensions, widens its unit and cuts it into items of at most kItemBytes.
std::vector<CopyItem> copy_items(std::span<const Tile> tiles);

inline constexpr std::int64_t kItemBytes = 256 * 1024;

}  // namespace refit::kernels
