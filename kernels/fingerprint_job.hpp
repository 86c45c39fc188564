#pragma once
// A list of regions whose fingerprints are taken by one launch: each is cut into items, and the items are numbered
// through.

#include <cstdint>

#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

/// Columns of a device's lane: 16 bytes, as far as their sums have room.
constexpr std::int64_t columns_of_lane(std::int64_t element_bytes) {
  return element_bytes == 1 ? 8 : 16 / element_bytes;
}

struct FingerprintJob {
  Rows rows;
  Cut pieces;
  Transform transform;
  bool vectors;  ///< rows can be read in vectors of 16 bytes
  std::uint64_t name_hash;
  std::int64_t first_item;  ///< the number of its first item in the launch
  std::int64_t slot;        ///< of its two sums
};

/// The jobs of one launch, at least one, in order of their items; in memory of the execution space.
struct FingerprintJobs {
  const FingerprintJob* jobs;
  std::int64_t count;
  Counter* sums;

  /// Returns the job that an item belongs to.
  KOKKOS_INLINE_FUNCTION const FingerprintJob& of(std::int64_t item) const {
    std::int64_t found = 0;
    for (std::int64_t end = count; end - found > 1;) {
      const std::int64_t middle = (found + end) / 2;
      if (jobs[middle].first_item <= item) {
        found = middle;
      } else {
        end = middle;
      }
    }
    return jobs[found];
  }
};

}  // namespace refit::kernels
