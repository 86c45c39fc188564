#include "transport/segment.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

namespace refit::transport {
namespace {

using plan::Copy;
using plan::End;

/// Two ranks, and whether both are of the destination.
using RankPair = std::tuple<Rank, Rank, bool>;

std::int64_t small_bytes(const Tuning& tuning) {
  if (tuning.small_bytes) return *tuning.small_bytes;
  return kernels::Runtime::has_device() ? kSmallOnDevices : kSmallOnHosts;
}

RankPair ranks_of(const Copy& copy) { return {copy.source.rank, copy.destination.rank, copy.is_from_taker()}; }

bool contiguous(const Copy& copy, const End& end) { return is_contiguous(copy.box.extent, end.place.strides); }

bool follows(const End& previous, std::int64_t elements, const End& next) {
  return previous.place.storage == next.place.storage && previous.format == next.format &&
         previous.place.offset + elements == next.place.offset;
}

void give_turns(std::vector<Parcel>& parcels) {
  struct Sums {
    std::int64_t plain = 0, staged = 0;  ///< bytes
    std::int64_t before = 0;             ///< of `plain`
  };
  std::map<RankPair, Sums> pairs;
  for (Parcel& parcel : parcels) {
    const bool is_plain = parcel.is_zero_copy_source() && parcel.is_zero_copy_destination();
    parcel.turn = is_plain ? 0 : 1;
    Sums& sums = pairs[ranks_of(parcel.first())];
    (is_plain ? sums.plain : sums.staged) += parcel.bytes;
  }
  for (Parcel& parcel : parcels) {
    Sums& sums = pairs[ranks_of(parcel.first())];
    if (parcel.turn == 1 || sums.staged == 0) continue;
    if (2 * sums.before >= sums.plain) parcel.turn = 2;
    sums.before += parcel.bytes;
  }
}

}  // namespace

Copy part_of(const Copy& copy, const Box& box) {
  Copy part = copy;
  part.box = box;
  const Extents shift = relative(box, copy.box);
  part.source.place.offset += offset_of(shift, copy.source.place.strides);
  part.destination.place.offset += offset_of(shift, copy.destination.place.strides);
  return part;
}

Copy Segment::whole() const {
  if (copy.wire_bytes() == bytes) return copy;
  Copy run = copy;
  run.box = {{0}, {bytes / byte_size(copy.source.format.dtype)}};
  run.source.place.strides = run.destination.place.strides = {1};
  return run;
}

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
  std::map<RankPair, std::size_t> last_plain;  // the pair's last segment, while it can be continued
  std::vector<Box> boxes;
  for (const Copy& copy : copies) {
    const bool cast = copy.source.format != copy.destination.format;
    const bool plain_source = contiguous(copy, copy.source);
    const bool plain_destination = contiguous(copy, copy.destination) && !cast;
    const RankPair pair = ranks_of(copy);
    const bool plain = plain_source && plain_destination;
    const bool relayed = copy.is_fed_on();
    if (const auto found = last_plain.find(pair); plain && !relayed && found != last_plain.end()) {
      Segment& before = out[found->second];
      const std::int64_t elements = before.bytes / byte_size(copy.source.format.dtype);
      if (before.bytes + copy.wire_bytes() <= tuning.message_bytes &&
          follows(before.copy.source, elements, copy.source) &&
          follows(before.copy.destination, elements, copy.destination)) {
        before.bytes += copy.wire_bytes();
        before.merged.push_back(copy.tensor);
        continue;
      }
    }
    boxes.clear();
    const std::int64_t bytes =
        plain && !relayed ? tuning.message_bytes : std::min(tuning.chunk_bytes, tuning.message_bytes);
    append_cut(copy.box, bytes / byte_size(copy.source.format.dtype), boxes);
    for (const Box& box : boxes) {
      const Copy part = part_of(copy, box);
      out.push_back(
          {part, part.wire_bytes(), contiguous(part, part.source), contiguous(part, part.destination) && !cast, {}});
    }
    if (plain && !relayed) {
      last_plain[pair] = out.size() - 1;
    } else {
      last_plain.erase(pair);
    }
  }
  return out;
}

std::vector<Parcel> pack(const std::vector<Segment>& segments, const Tuning& tuning) {
  const std::int64_t small = small_bytes(tuning);
  const std::int64_t most = std::min({tuning.packed_bytes, tuning.chunk_bytes, tuning.message_bytes});
  std::vector<Parcel> parcels;
  std::map<RankPair, std::size_t> open;  // the pair's last parcel of small segments
  for (const Segment& segment : segments) {
    if (segment.bytes < small) {
      const auto [at, is_new] = open.try_emplace(ranks_of(segment.copy), parcels.size());
      if (!is_new) {
        Parcel& last = parcels[at->second];
        const std::int64_t bytes = round_up(last.bytes, kChunkAlignment) + segment.bytes;
        if (bytes <= most) {
          last.segments.push_back(segment);
          last.bytes = bytes;
          continue;
        }
        at->second = parcels.size();
      }
    }
    parcels.push_back({{segment}, segment.bytes, 0, std::ssize(parcels)});
  }
  std::ranges::stable_sort(parcels, std::greater(), &Parcel::bytes);
  give_turns(parcels);
  std::ranges::stable_sort(parcels, {}, &Parcel::turn);
  return parcels;
}

std::vector<std::vector<Parcel>> deal(const std::vector<Parcel>& parcels, std::int64_t parts, const Tuning& tuning) {
  std::vector<std::vector<Parcel>> dealt(static_cast<std::size_t>(parts));
  std::map<RankPair, std::vector<std::int64_t>> loads;
  for (const Parcel& parcel : parcels) {
    std::vector<std::int64_t>& load = loads.try_emplace(ranks_of(parcel.first()), dealt.size(), 0).first->second;
    const auto least = std::min_element(load.begin(), load.end());
    *least += parcel.bytes + tuning.message_cost_bytes;
    dealt[static_cast<std::size_t>(least - load.begin())].push_back(parcel);
  }
  for (std::vector<Parcel>& part : dealt)
    std::ranges::sort(part, {}, [](const Parcel& parcel) { return std::pair(parcel.turn, parcel.place); });
  return dealt;
}

}  // namespace refit::transport
