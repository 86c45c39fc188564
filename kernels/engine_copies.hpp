#pragma once
// Copies by a device's copy engines: faster than a kernel's stores into another device's memory, where a copy is long
// and its bits stay as they are. Beside them a kernel does everything else.
//
// Two H200, NVLink, CUDA 13.0: a kernel stores 370 GB/s. Engines copy 394 GB/s in batches of pieces of 1 MiB or more,
// 367 to 380 of 256 KiB, and 225 of 128 KiB, whose number keeps the host too busy. Rows with gaps are no part of a
// batch: 3.5 us pass between two such copies, in one stream or in several, so 16 MiB are copied at 365 GB/s, 64 MiB at
// 384 to 388 and 256 MiB at 391 to 395.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/kernels.hpp"

namespace refit::kernels {

/// Planes of rows of bytes that are copied as they are. Pitches lead from row to row, in bytes, and are at least `row`;
/// from plane to plane it is a whole number of them, at least `rows`.
struct EngineCopy {
  const std::byte* source = nullptr;
  std::byte* destination = nullptr;
  std::int64_t row = 0;
  std::int64_t rows = 1;
  std::int64_t planes = 1;
  std::int64_t source_pitch = 0;
  std::int64_t destination_pitch = 0;
  std::int64_t source_rows = 1;       ///< pitches from plane to plane
  std::int64_t destination_rows = 1;  ///< pitches from plane to plane
  std::int32_t peer = 0;              ///< as a tile's

  std::int64_t bytes() const { return row * rows * planes; }
  bool is_contiguous() const { return rows == 1 && planes == 1; }
};

/// The least size of a contiguous copy that is worth an engine's time: see above.
inline constexpr std::int64_t kEngineBytes = 256 << 10;

/// Sizes that decide what copy engines do, never what arrives.
struct EngineSizes {
  std::int64_t least_bytes = 0;                               ///< of a contiguous copy; 0: engines do nothing
  std::int64_t least_strided_bytes = std::int64_t{32} << 20;  ///< of a copy of rows with gaps
  std::int64_t least_row_bytes = 256;                         ///< of its rows
  std::int64_t split_row_bytes = kEngineBytes;                ///< rows of this length are contiguous copies
  /// A longer contiguous copy is cut, so that copies to several peers can take turns.
  std::int64_t most_bytes = std::int64_t{64} << 20;
  std::int64_t batch = 256;  ///< contiguous copies that are enqueued together
  /// Bytes that engines copy while the host enqueues one copy: the n longest copies are taken as long as they have n
  /// times as many, so that no engine waits for the host. 0.6 to 1 us at 390 GB/s.
  std::int64_t host_bytes = 384 << 10;
};

/// Returns something that is equal for addresses of one allocation: a copy engine stays in one.
using AllocationOf = std::function<const void*(const std::byte* address)>;
const void* allocation_of(const std::byte* address);

/// Takes out of `tiles` what copy engines are to copy: bits that stay as they are, without flags, in rows that are
/// contiguous at both ends. Neighbours at both ends become one copy first, and rows of equal shape at equal distances
/// one copy of planes, so that many small tiles may be worth it together; tiles that stay behind may be merged, too.
/// Copies of rows with gaps come first, then the contiguous ones; either by peer in turns, each peer's largest first.
std::vector<EngineCopy> take_engine_copies(std::vector<Tile>& tiles, const EngineSizes& sizes,
                                           const AllocationOf& allocation = allocation_of);

/// Copies by engines, made once and run as one piece of work as often as asked. On hosts, where only tests use it, the
/// calling thread does them.
class EngineTable {
 public:
  EngineTable() = default;
  /// `copies`: in the order in which they are enqueued. Errors (runtime), of all functions: CUDA's own.
  EngineTable(const std::vector<EngineCopy>& copies, const EngineSizes& sizes);
  /// Returns whether this build's device has copy engines that this class can use.
  static bool is_available();
  /// Enqueues the first copies, behind what is enqueued on `space`. Kernels that are enqueued there next run at the
  /// same time.
  void begin(const ExecutionSpace& space) const;
  /// Enqueues the others. What is enqueued on `space` next, and its fence, waits for all of them.
  void finish(const ExecutionSpace& space) const;
  std::int64_t bytes() const { return bytes_; }
  /// Returns the engines' queue, a cudaStream_t; null on hosts, and where there are no copies.
  void* queue() const;

 private:
  struct Work;
  std::shared_ptr<const Work> work_;
  std::int64_t bytes_ = 0;
};

}  // namespace refit::kernels
