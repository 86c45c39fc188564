#pragma once
// Kernels of deltas: which elements of a block differ from what was kept of it, those elements in the form in which
// they travel, and back.
//
// Elements are compared as bits: -0.0 differs from 0.0, and one NaN from another. A block's elements are numbered in
// row-major order of its box, whatever their strides. Forms of n elements of v bytes, of which c have changed, each
// padded to kDeltaAlignment:
//
//   dense    the n values
//   index    c numbers of 16 bits, ascending, padded to 8 bytes; then c values
//   bitmap   n bits in words of 64, the lowest first; then c values
//
// Example: 65,536 BF16 elements, 1,638 of them changed (2.5 %): dense 131,072 bytes, bitmap 11,472, index 6,560.

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/device.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

enum class DeltaForm : std::uint8_t { dense, index, bitmap };

inline constexpr std::int64_t kDeltaElements = 65536;  ///< most elements of a block, whose numbers have 16 bits
inline constexpr std::int64_t kDeltaAlignment = 16;    ///< of what is encoded, begin and size

/// Returns where the values of an encoded block begin, in bytes.
REFIT_FUNCTION constexpr std::int64_t delta_values_begin(DeltaForm form, std::int64_t elements, std::int64_t changed) {
  if (form == DeltaForm::index) return (2 * changed + 7) / 8 * 8;
  return form == DeltaForm::bitmap ? (elements + 63) / 64 * 8 : 0;
}

/// Returns the bytes of an encoded block with at least one changed element of `value_bytes` bytes.
constexpr std::int64_t delta_bytes(DeltaForm form, std::int64_t elements, std::int64_t changed,
                                   std::int64_t value_bytes) {
  const std::int64_t values = form == DeltaForm::dense ? elements : changed;
  return round_up(delta_values_begin(form, elements, changed) + values * value_bytes, kDeltaAlignment);
}

/// A block at one end: of a source with what is kept of it, or of a destination. Strides are in elements.
struct DeltaBlock {
  std::byte* data = nullptr;  ///< the first element
  std::byte* kept = nullptr;  ///< of a source: the first element that is kept
  Extents extent;             ///< at most kDeltaElements in all
  Extents strides;
  Extents kept_strides;
  DType from = DType::bf16;  ///< of values on the wire
  DType to = DType::bf16;    ///< of a destination; a source's is `from`
  Transform transform = Transform::none;
};

/// An encoded block on its way from a table's block, or to one.
struct DeltaJob {
  std::byte* wire = nullptr;  ///< aligned to kDeltaAlignment
  std::uint32_t block = 0;    ///< number in its table
  std::uint32_t changed = 0;  ///< elements, as they were counted
  DeltaForm form = DeltaForm::dense;
};

/// Blocks of one rank, made once and worked on as often as asked, without allocating. Values and what is kept are
/// aligned to their size on a device. Every function is one launch for all its blocks. Counts and jobs are in memory
/// that the host and the execution space address (SharedBuffer), and stay as they are until the next fence.
class DeltaTable {
 public:
  DeltaTable() = default;
  DeltaTable(const ExecutionSpace& space, std::span<const DeltaBlock> blocks);
  /// Enqueues the counting of the elements of each block that differ from what is kept; which ones it keeps in bits of
  /// its own, until it counts again.
  void count(const ExecutionSpace& space, std::uint32_t* counts) const;
  /// Enqueues the writing of counted blocks in their forms, at `wire`.
  void encode(const ExecutionSpace& space, std::span<const DeltaJob> jobs) const;
  /// Enqueues the storing of the values at `wire`, converted as a copy's (CopyTable).
  void decode(const ExecutionSpace& space, std::span<const DeltaJob> jobs) const;
  /// Enqueues the keeping of what was counted, or of all blocks as they are (nullptr).
  void keep(const ExecutionSpace& space, const std::uint32_t* counts) const;
  /// Returns the bytes of those bits: one for each element of a source.
  std::int64_t bytes() const;

 private:
  struct Items;
  std::shared_ptr<const Items> items_;
};

}  // namespace refit::kernels
