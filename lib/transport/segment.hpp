#pragma once
// Segments: a plan's copies as messages. Both ends of a pair derive the same segments from the same copies.

#include <vector>

#include "plan/plan.hpp"

namespace refit::transport {

/// No message is longer: MPI counts are ints.
inline constexpr std::int64_t kMaxMessageBytes = std::int64_t{1} << 30;

/// One message between two ranks: a part of one copy, or several whole copies that follow each other without gaps in
/// both storages (`copy` is then the first, and the segment is plain bytes at both ends).
struct Segment {
  plan::Copy copy;                     ///< box and places of this part; the first of a merged run
  std::int64_t bytes = 0;              ///< on the wire
  bool zero_copy_source = false;       ///< sent from the storage itself
  bool zero_copy_destination = false;  ///< received into the storage itself
};

/// The segments of `copies` (of one rank, in plan order), in order. Copies that are contiguous at both ends without a
/// cast are merged with their successor between the same two ranks where that continues both storages; others are cut
/// into parts of at most `chunk_bytes`.
std::vector<Segment> make_segments(const std::vector<plan::Copy>& copies, std::int64_t chunk_bytes);

/// Deals segments, which stay in order, into `parts` that take about equally long between every two ranks. Both ends of
/// a pair deal alike.
std::vector<std::vector<Segment>> deal(const std::vector<Segment>& segments, std::int64_t parts);

}  // namespace refit::transport
