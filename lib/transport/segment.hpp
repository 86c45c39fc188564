#pragma once
// Segments: a plan's copies as messages. Both ends of a pair derive the same segments from the same copies.

#include <vector>

#include "transport/executor.hpp"

namespace refit::transport {

/// One message between two ranks: a part of one copy, or several whole copies that follow each other without gaps in
/// both storages (`copy` is then the first, and the segment is plain bytes at both ends).
struct Segment {
  plan::Copy copy;                     ///< box and places of this part; the first of a merged run
  std::int64_t bytes = 0;              ///< on the wire
  bool zero_copy_source = false;       ///< sent from the storage itself
  bool zero_copy_destination = false;  ///< received into the storage itself
};

/// Returns the segments of `copies` (of one rank, in plan order), in order. Copies that are contiguous at both ends
/// without a cast are merged with their successor between the same two ranks where that continues both storages, up to
/// tuning.message_bytes; others are cut into parts of at most tuning.chunk_bytes.
std::vector<Segment> make_segments(const std::vector<plan::Copy>& copies, const Tuning& tuning);

/// Deals segments, which stay in order, into `parts` that take about equally long between every two ranks. Both ends of
/// a pair deal alike.
std::vector<std::vector<Segment>> deal(const std::vector<Segment>& segments, std::int64_t parts, const Tuning& tuning);

/// Appends the parts of `box`, in order, cut between rows of its first dimension longer than 1, and rows further, until
/// none has more than `elements` (at least 1).
void append_cut(const Box& box, std::int64_t elements, std::vector<Box>& out);

}  // namespace refit::transport
