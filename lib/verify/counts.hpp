#pragma once
// How many elements are wrong, which is the first, what stands there and what should: the path that is taken only after
// fingerprints have differed. The truth travels over the control plane, not through the plan that is being checked, in
// rounds: in each, every rank that has some of it sends a chunk to those that are wrong there.
//
// Counting has a time limit. Who is wrong is known before, so what is not reached is said, not lost.

#include <cstdint>
#include <vector>

#include "verify/prints.hpp"

namespace refit::verify {

/// Wrong elements of one piece, or of one fill, of this rank.
struct Finding {
  std::int32_t index = 0;  ///< of the piece or fill, in the rank's LocalLayout
  std::int64_t elements = 0;
  std::int64_t first = -1;  ///< linear index in the tensor's file; of a fill: element of the storage
  std::uint64_t found = 0;
  std::uint64_t expected = 0;
  bool counted = true;  ///< all of it; else `elements` and `first` are those of what was reached
};

/// Compares the wrong parts of this rank's pieces with the true ones, small tensors first, until all are done or
/// tuning.count_seconds have passed on some rank, whichever comes first. Collective over the world, with the same lists
/// on all ranks. Returns this rank's wrong pieces.
std::vector<Finding> count_pieces(const LocalMemory& local, const std::vector<Suspect>& suspects,
                                  const std::vector<WrongPart>& wrong);

/// The fills of this rank that do not hold their constant. No communication.
std::vector<Finding> count_fills(const LocalMemory& local);

}  // namespace refit::verify
