#pragma once
// The items of a table of parts: a few rows, or a stretch of a row, each.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.hpp"
#include "kernels/parts.hpp"

namespace refit::kernels {

/// Some rows and columns of a part. Columns begin and end between blocks.
struct PartItem {
  const std::byte* source;
  std::int64_t source_stride[2];
  std::int64_t rows, columns;
  std::uint32_t* amax;        ///< of the item's first row
  std::byte* values;          ///< of the item's first value
  std::int64_t value_stride;  ///< bytes from row to row
  std::byte* scales;          ///< of the item's first row; null: another item stores its scale
  std::int64_t scale_stride;  ///< scales from row to row
  std::byte* tensor_scale;    ///< null: another item stores it
  std::int32_t block;         ///< columns of a block
  std::int32_t amax_stride;   ///< words from row to row
  std::int32_t kind;          ///< index among the quantisers
  DType from, scale_dtype;
  bool reads_vectors;   ///< rows begin at multiples of 16 bytes, and have no gaps between columns
  bool writes_vectors;  ///< values of 16 columns begin at multiples of their size
};

/// Returns the index of a quantiser in REFIT_PART_QUANTISERS; -1 where there is none.
int part_kind(StoredFormat format, Library library);
/// Returns how many there are.
int part_kinds();

/// Return the items with which parts raise their words of amax, and with which they are quantised, by kind.
std::vector<PartItem> amax_items(std::span<const Part> parts);
std::vector<PartItem> part_items(std::span<const Part> parts);

/// Defined in parts_host.cpp and parts_device.cpp, of which one is built. Enqueue items; those of run_parts have one
/// kind. With no items, a device loads the kernel.
void run_amax(const ExecutionSpace& space, const PartItem* items, std::int64_t count);
void run_parts(const ExecutionSpace& space, const PartItem* items, std::int64_t count, int kind);

}  // namespace refit::kernels
