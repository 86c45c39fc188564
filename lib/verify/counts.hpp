#pragma once
// Counts wrong elements and finds the first, with its bits and the right ones: the path that is taken only after
// fingerprints have differed. The truth travels over the control plane, not through the plan that is being checked, in
// rounds: in each, every rank that has a part of it sends a chunk to the ranks that are wrong there.
//
// Counting has a time limit. The wrong ranks are known before, so pieces that are not reached are reported as not
// counted.

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
  bool counted = true;  ///< all are counted; else `elements` and `first` are those of the part that was reached
};

/// Compares the wrong parts of this rank's pieces with the true ones, small tensors first, until all are done or
/// tuning.count_seconds have passed on some rank, whichever comes first. Collective over the world, with the same lists
/// on all ranks. Returns this rank's wrong pieces.
std::vector<Finding> count_pieces(const LocalMemory& local, const std::vector<Suspect>& suspects,
                                  const std::vector<WrongPart>& wrong);

/// Returns the fills of this rank that do not hold their constant. No communication.
std::vector<Finding> count_fills(const LocalMemory& local);

}  // namespace refit::verify
