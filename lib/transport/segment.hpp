#pragma once
// A plan's copies as messages. Both ends of a pair derive the same segments, and the same parcels of them, from the
// same copies.
//
// Example: Qwen3-0.6B TP1 -> TP1 are 898 copies. Of each layer, gate and up are one segment, o and down one each; the
// eight query groups of q, k and v and the norms are small, and travel packed: a few parcels for all layers.

#include <vector>

#include "transport/executor.hpp"

namespace refit::transport {

/// Parts of a staged message, and chunks, begin at multiples of this many bytes.
inline constexpr std::int64_t kChunkAlignment = 64;

/// Returns the part of `copy` that is `box`.
plan::Copy part_of(const plan::Copy& copy, const Box& box);

/// What one message can bring between two ranks: a part of one copy, or several whole copies that follow each other
/// without gaps in both storages (`copy` is then the first, and the segment is plain bytes at both ends).
struct Segment {
  plan::Copy copy;                     ///< box and places of this part; the first of a merged run
  std::int64_t bytes = 0;              ///< on the wire
  bool zero_copy_source = false;       ///< sent from the storage itself
  bool zero_copy_destination = false;  ///< received into the storage itself
  std::vector<std::int32_t> merged;    ///< tensors of the copies behind the first of a merged run

  /// Returns a copy of all of its bytes: for a merged run of one dimension, with the elements as they lie.
  plan::Copy whole() const;
};

/// One message between two ranks: a segment, or several small ones, packed: each begins at a multiple of
/// kChunkAlignment, and both ends stage them.
struct Parcel {
  std::vector<Segment> segments;
  std::int64_t bytes = 0;  ///< on the wire
  int turn = 0;            ///< 0: before all that is staged, 1: staged by either end, 2: behind it
  std::int64_t place = 0;  ///< in the plan's order, of the first segment

  const plan::Copy& first() const { return segments.front().copy; }
  bool is_packed() const { return segments.size() > 1; }
  bool is_zero_copy_source() const { return !is_packed() && segments.front().zero_copy_source; }
  bool is_zero_copy_destination() const { return !is_packed() && segments.front().zero_copy_destination; }
};

/// Returns the segments of `copies` (of one rank, in plan order), in order. Copies that are contiguous at both ends
/// without a cast are merged with their successor between the same two ranks where that continues both storages, up to
/// tuning.message_bytes; others are cut into parts of at most tuning.chunk_bytes. So are relayed copies, and none of
/// them is merged: each part is forwarded as soon as it is there.
std::vector<Segment> make_segments(const std::vector<plan::Copy>& copies, const Tuning& tuning);

/// Sizes of segments below which they are packed unless a tuning says otherwise. On devices a message costs as much as
/// 8 MiB of wire, and packing runs at ten times the wire's rate; on hosts a message costs some microseconds, and
/// packing takes the memory that is the wire.
inline constexpr std::int64_t kSmallOnHosts = 16 << 10;
inline constexpr std::int64_t kSmallOnDevices = 1 << 20;

/// Returns the messages that bring the segments (of one rank, in plan order). Small segments of a pair are packed, up
/// to tuning.packed_bytes, a chunk or a message.
///
/// Messages that an end stages come between those that nobody does, of which each pair has half of the bytes before
/// them and the rest behind: packing waits for no wire then, and the wire for no unpacking. In each turn the largest
/// come first. This is one order of all messages of a job, of which every rank has its own; both ends of a pair find
/// its turns by its messages alone.
std::vector<Parcel> pack(const std::vector<Segment>& segments, const Tuning& tuning);

/// Deals messages into `parts` that take about equally long between every two ranks; the largest first, for parts that
/// are alike. Within a turn a part is in the plan's order, which mixes sizes: small messages alone do not fill a link
/// (Qwen3-8B: 45.4 ms with the largest first, 44.5 so). Both ends of a pair deal alike.
std::vector<std::vector<Parcel>> deal(const std::vector<Parcel>& parcels, std::int64_t parts, const Tuning& tuning);

/// Appends the parts of `box`, in order, cut between rows of its first dimension longer than 1, and rows further, until
/// none has more than `elements` (at least 1).
void append_cut(const Box& box, std::int64_t elements, std::vector<Box>& out);

}  // namespace refit::transport
