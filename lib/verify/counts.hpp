#pragma once
// How many elements are wrong, which is the first, what stands there and what should: the path that is taken only after
// a fingerprint has differed. The truth travels over the control plane, not through the plan that is being checked.

#include <cstdint>
#include <vector>

#include "verify/judge.hpp"
#include "verify/local_memory.hpp"

namespace refit::verify {

/// Wrong elements of one piece, or of one fill, of this rank.
struct Finding {
  std::int32_t index = 0;  ///< of the piece or fill, in the rank's LocalLayout
  std::int64_t elements = 0;
  std::int64_t first = -1;  ///< linear index in the tensor's file; of a fill: element of the storage
  std::uint64_t found = 0;
  std::uint64_t expected = 0;
};

/// Compares this rank's pieces with the true boxes, which their sources broadcast in chunks of at most kChunkBytes.
/// Collective over the world, with the same suspects on all ranks. Returns the wrong pieces of a gen rank.
std::vector<Finding> count_pieces(const LocalMemory& local, const std::vector<Suspect>& suspects);

/// The fills of this rank that do not hold their constant. No communication.
std::vector<Finding> count_fills(const LocalMemory& local);

}  // namespace refit::verify
