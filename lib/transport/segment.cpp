#include "transport/segment.hpp"

#include <algorithm>
#include <map>

namespace refit::transport {
namespace {

using plan::Copy;
using plan::End;

bool contiguous(const Copy& copy, const End& end) { return is_contiguous(copy.box.extent, end.place.strides); }

/// Returns the part of `copy` that is `box`.
Copy part_of(const Copy& copy, const Box& box) {
  Copy part = copy;
  part.box = box;
  const Extents shift = relative(box, copy.box);
  part.source.place.offset += offset_of(shift, copy.source.place.strides);
  part.destination.place.offset += offset_of(shift, copy.destination.place.strides);
  return part;
}

bool follows(const End& previous, std::int64_t elements, const End& next) {
  return previous.place.storage == next.place.storage && previous.format == next.format &&
         previous.place.offset + elements == next.place.offset;
}

}  // namespace

void append_cut(const Box& box, std::int64_t elements, std::vector<Box>& out) {
  elements = std::max<std::int64_t>(1, elements);
  if (box.volume() <= elements) {
    out.push_back(box);
    return;
  }
  int d = 0;
  while (box.extent[d] == 1) ++d;
  const std::int64_t slice = box.volume() / box.extent[d];
  const std::int64_t rows = std::max<std::int64_t>(1, elements / slice);
  for (std::int64_t done = 0; done < box.extent[d]; done += rows) {
    Box part = box;
    part.lower[d] += done;
    part.extent[d] = std::min(rows, box.extent[d] - done);
    append_cut(part, elements, out);
  }
}

std::vector<Segment> make_segments(const std::vector<Copy>& copies, const Tuning& tuning) {
  std::vector<Segment> out;
  std::map<std::pair<Rank, Rank>, std::size_t> last_plain;  // the pair's last segment, while it can be continued
  std::vector<Box> boxes;
  for (const Copy& copy : copies) {
    const bool cast = copy.source.format != copy.destination.format;
    const bool plain_source = contiguous(copy, copy.source);
    const bool plain_destination = contiguous(copy, copy.destination) && !cast;
    const auto pair = std::pair(copy.source.rank, copy.destination.rank);
    const bool plain = plain_source && plain_destination;
    if (const auto found = last_plain.find(pair); plain && found != last_plain.end()) {
      Segment& before = out[found->second];
      const std::int64_t elements = before.bytes / byte_size(copy.source.format.dtype);
      if (before.bytes + copy.wire_bytes() <= tuning.message_bytes &&
          follows(before.copy.source, elements, copy.source) &&
          follows(before.copy.destination, elements, copy.destination)) {
        before.bytes += copy.wire_bytes();
        continue;
      }
    }
    boxes.clear();
    const std::int64_t bytes = plain ? tuning.message_bytes : std::min(tuning.chunk_bytes, tuning.message_bytes);
    append_cut(copy.box, bytes / byte_size(copy.source.format.dtype), boxes);
    for (const Box& box : boxes) {
      const Copy part = part_of(copy, box);
      out.push_back(
          {part, part.wire_bytes(), contiguous(part, part.source), contiguous(part, part.destination) && !cast});
    }
    if (plain) {
      last_plain[pair] = out.size() - 1;
    } else {
      last_plain.erase(pair);
    }
  }
  return out;
}

std::vector<std::vector<Segment>> deal(const std::vector<Segment>& segments, std::int64_t parts, const Tuning& tuning) {
  std::vector<std::vector<Segment>> dealt(static_cast<std::size_t>(parts));
  std::map<std::pair<Rank, Rank>, std::vector<std::int64_t>> loads;
  for (const Segment& segment : segments) {
    const auto pair = std::pair(segment.copy.source.rank, segment.copy.destination.rank);
    std::vector<std::int64_t>& load = loads.try_emplace(pair, dealt.size(), 0).first->second;
    const auto least = std::min_element(load.begin(), load.end());
    *least += segment.bytes + tuning.message_cost_bytes;
    dealt[static_cast<std::size_t>(least - load.begin())].push_back(segment);
  }
  return dealt;
}

}  // namespace refit::transport
