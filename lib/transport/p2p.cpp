#include "transport/p2p.hpp"

#include <algorithm>
#include <iterator>
#include <set>

#include "core/box.hpp"
#include "transport/lanes.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

/// Returns the tuning with chunks of a whole number of alignments, so that every staged part is aligned.
Tuning aligned(Tuning tuning) {
  REFIT_ASSERT(tuning.streams >= 1 && tuning.group_size >= 1 && tuning.ring_chunks >= 1);
  REFIT_ASSERT(tuning.chunk_bytes >= kChunkAlignment && tuning.message_bytes >= 1 && tuning.packed_bytes >= 1);
  tuning.chunk_bytes -= tuning.chunk_bytes % kChunkAlignment;
  return tuning;
}

/// A group of messages whose staged parts fill one chunk of the ring.
struct Batch : BatchMessages {
  kernels::CopyTable packing;     // storages -> chunk, before the group
  kernels::CopyTable unpacking;   // chunk -> storages, after it
  kernels::CopyTable forwarding;  // storages -> other ranks' storages, behind that

  void pack(const kernels::ExecutionSpace& space) const { packing.run(space); }
  void unpack(const kernels::ExecutionSpace& space) const {
    unpacking.run(space);
    forwarding.run(space);
  }
};

/// The messages of one stage in groups: at most `group_size` each, of one turn, and at most one chunk of staged bytes,
/// and of bytes that are forwarded.
struct Group {
  std::span<const Parcel> parcels;
  std::int64_t staged_bytes = 0;
};

bool is_staged(const Parcel& parcel, const Endpoint& me) {
  return me.sends(parcel.first()) ? !parcel.is_zero_copy_source() : !parcel.is_zero_copy_destination();
}

/// Returns the bytes that this rank receives and forwards.
std::int64_t relayed_bytes(const Parcel& parcel, const Endpoint& me) {
  std::int64_t bytes = 0;
  for (const Segment& segment : parcel.segments)
    if (segment.copy.is_fed_on() && me.receives(segment.copy)) bytes += segment.bytes;
  return bytes;
}

void append_groups(const std::vector<Parcel>& parcels, const Endpoint& me, const Tuning& tuning,
                   std::vector<Group>& out) {
  std::size_t first = 0;
  std::int64_t used = 0, relayed = 0;
  const auto close = [&](std::size_t end) {
    if (end > first) out.push_back({std::span(parcels).subspan(first, end - first), used});
    first = end;
    used = relayed = 0;
  };
  for (std::size_t i = 0; i < parcels.size(); ++i) {
    const std::int64_t room = is_staged(parcels[i], me) ? parcels[i].bytes : 0;
    const std::int64_t forwarded = relayed_bytes(parcels[i], me);
    const bool is_full = static_cast<std::int64_t>(i - first) >= tuning.group_size ||
                         std::max(used + room, relayed + forwarded) > tuning.chunk_bytes;
    if (is_full || parcels[i].turn != parcels[first].turn) close(i);
    used += round_up(room, kChunkAlignment);
    relayed += forwarded;
  }
  close(parcels.size());
}

struct StageGroup {
  std::int32_t stage;
  int lane;  ///< of the stage's communicator
  Group group;
};
using StageGroups = std::vector<StageGroup>;
struct LaneRing {
  std::int64_t chunks = 0;
  std::int64_t chunk_bytes = 0;
};

/// The groups of a rank by lane, and the chunks that they need: no more and no longer ones than that.
struct LaneGroups {
  std::vector<std::vector<Parcel>> parcels;  ///< of which the groups are parts
  std::vector<StageGroups> lanes;
  std::vector<LaneRing> rings;
  std::int64_t ring_bytes = 0;
};

LaneGroups make_groups(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& remote,
                       const Tuning& tuning) {
  std::vector<std::vector<plan::Copy>> by_stage(static_cast<std::size_t>(routes.stages()));
  // All destination ranks are in the communicator of the first stage.
  for (const plan::Copy& copy : remote)
    by_stage[copy.is_from_taker() ? 0 : static_cast<std::size_t>(routes.stage(copy.source.rank))].push_back(copy);

  // Stages take turns on the lanes; where there are fewer, each has several.
  LaneGroups result;
  const std::int64_t parts = lanes_of_stage(tuning.streams, routes.stages());
  for (const auto& stage : by_stage) {
    for (auto& part : deal(pack(make_segments(stage, tuning), tuning), parts, tuning))
      result.parcels.push_back(std::move(part));
  }
  const auto streams = static_cast<std::size_t>(tuning.streams);
  result.lanes.resize(streams);
  for (std::size_t i = 0; i < result.parcels.size(); ++i) {
    std::vector<Group> cut;
    append_groups(result.parcels[i], me, tuning, cut);
    const auto stage = static_cast<std::int32_t>(static_cast<std::int64_t>(i) / parts);
    const std::int64_t lane = static_cast<std::int64_t>(i) % (routes.has_one() ? tuning.streams : parts);
    for (const Group& group : cut) result.lanes[i % streams].push_back({stage, static_cast<int>(lane), group});
  }
  for (const StageGroups& lane : result.lanes) {
    LaneRing ring;
    for (const StageGroup& each : lane) {
      ring.chunk_bytes = std::max(ring.chunk_bytes, each.group.staged_bytes);
      if (each.group.staged_bytes > 0) ring.chunks = std::min(tuning.ring_chunks, ring.chunks + 1);
    }
    result.rings.push_back(ring);
    result.ring_bytes += ring.chunks * ring.chunk_bytes;
  }
  return result;
}

std::vector<plan::Copy> remote_copies(const std::vector<plan::Copy>& copies) {
  std::vector<plan::Copy> remote;
  std::ranges::copy_if(copies, std::back_inserter(remote), [](const plan::Copy& copy) { return !copy.to_self; });
  return remote;
}

/// Turns groups into batches.
class BatchBuilder {
 public:
  BatchBuilder(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
               const kernels::TableSizes& sizes, const Forward& forward)
      : space_(space), routes_(routes), me_(me), sizes_(sizes), forward_(forward) {}

  /// Builds the batch of one group of a stage, on a lane of its communicator, whose staged parts go to `chunk`.
  Batch build(std::int32_t stage, int lane, const Group& group, std::byte* chunk) {
    Batch batch;
    batch.stage = stage;
    batch.lane = lane;
    batch.first_tensor = group.parcels.front().first().tensor;
    pack_.clear();
    unpack_.clear();
    forwarded_.clear();
    for (const Parcel& parcel : group.parcels) {
      batch.messages.push_back(message(parcel, stage, chunk));
      if (is_staged(parcel, me_)) chunk += round_up(parcel.bytes, kChunkAlignment);
      for (const Segment& segment : parcel.segments) {
        if (forward_ && segment.copy.is_fed_on() && me_.receives(segment.copy)) forward_(segment.copy, forwarded_);
      }
    }
    batch.packing = kernels::CopyTable(space_, pack_, sizes_);
    batch.unpacking = kernels::CopyTable(space_, unpack_, sizes_);
    batch.forwarding = kernels::CopyTable(space_, forwarded_, sizes_);
    batch.packed_bytes = batch.packing.bytes_written();
    batch.unpacked_bytes = batch.unpacking.bytes_written() + batch.forwarding.bytes_written();
    return batch;
  }

 private:
  Message message(const Parcel& parcel, std::int32_t stage, std::byte* wire) {
    const plan::Copy& copy = parcel.first();
    const bool sending = me_.sends(copy);
    const LocalMemory& source = copy.is_from_taker() ? me_.destination : me_.source;
    if (!is_staged(parcel, me_)) {
      wire = sending ? source.address(copy.source.place, copy.source.format.dtype)
                     : me_.destination.address(copy.destination.place, copy.destination.format.dtype);
    } else {
      std::byte* part = wire;
      for (const Segment& segment : parcel.segments) {
        if (sending) {
          pack_.push_back(pack_tile(segment.whole(), source, part));
        } else {
          unpack_.push_back(unpack_tile(segment.whole(), part, me_.destination));
        }
        part += round_up(segment.bytes, kChunkAlignment);
      }
    }
    return {sending ? Message::Kind::send : Message::Kind::receive,
            sending                ? routes_.destination_peer(copy.destination.rank, stage)
            : copy.is_from_taker() ? routes_.destination_peer(copy.source.rank, stage)
                                   : routes_.source_peer(copy.source.rank),
            wire, parcel.bytes};
  }

  const kernels::ExecutionSpace& space_;
  const Routes& routes_;
  const Endpoint& me_;
  const kernels::TableSizes& sizes_;
  const Forward& forward_;
  std::vector<kernels::Tile> pack_, unpack_, forwarded_;
};

class P2p final : public Executor {
 public:
  P2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
      const std::vector<plan::Copy>& copies, const Tuning& tuning, std::shared_ptr<Ring> ring, Progress& progress,
      const Forward& forward)
      : space_(space), routes_(routes), progress_(progress), group_size_(tuning.group_size), ring_(std::move(ring)) {
    std::vector<kernels::Tile> to_self;
    for (const plan::Copy& copy : copies) {
      if (copy.to_self) to_self.push_back(self_tile(copy, me.source, me.destination));
    }
    to_self_ = kernels::CopyTable(space_, to_self, tuning.table);
    make_lanes(me, make_groups(routes_, me, remote_copies(copies), aligned(tuning)), aligned(tuning), forward);
  }

  void execute() override {
    enqueue_traced(progress_.trace(), space_, Step::kernel, to_self_.bytes_written(), [&] { to_self_.run(space_); });
    run(lanes_, space_, routes_, progress_);
    space_.fence();
  }

  void connect() override {
    std::vector<std::set<Greeting>> greetings;
    for (const Lane<Batch>& lane : lanes_) greetings.push_back(greetings_of(lane));
    greet(space_, routes_, greetings, group_size_, progress_);
  }

  MemoryList staging() const override { return {ring_->allocated()}; }

  Schedule schedule() const override {
    Schedule schedule;
    for (const Lane<Batch>& lane : lanes_) lane.add_to(schedule);
    return schedule;
  }

 private:
  /// Returns a lane's, one for each peer and direction.
  std::set<Greeting> greetings_of(const Lane<Batch>& lane) const {
    std::set<Greeting> result;
    for (const Batch& batch : lane.batches()) {
      const int self = routes_.communicator(batch.stage).rank();
      for (const Message& message : batch.messages) {
        const bool sending = message.kind == Message::Kind::send;
        result.insert({batch.stage, batch.lane, sending ? self : message.peer, sending ? message.peer : self});
      }
    }
    return result;
  }

  void make_lanes(const Endpoint& me, const LaneGroups& groups, const Tuning& tuning, const Forward& forward) {
    if (!ring_) ring_ = std::make_shared<Ring>(groups.ring_bytes);
    std::byte* next = groups.ring_bytes > 0 ? ring_->memory() : nullptr;

    BatchBuilder builder(space_, routes_, me, tuning.table, forward);
    for (std::size_t lane = 0; lane < groups.lanes.size(); ++lane) {
      const LaneRing& ring = groups.rings[lane];
      lanes_.emplace_back(tuning.ring_chunks);
      std::vector<Batch>& batches = lanes_.back().batches();
      std::int64_t staged = 0;  // groups so far
      for (const StageGroup& each : groups.lanes[lane]) {
        // Of ring_chunks batches, which are in flight at most, no two have one chunk.
        const std::int64_t chunk = each.group.staged_bytes > 0 ? staged++ % ring.chunks : 0;
        batches.push_back(builder.build(each.stage, each.lane, each.group, next + chunk * ring.chunk_bytes));
      }
      lanes_.back().make_requests(routes_);
      next += ring.chunks * ring.chunk_bytes;
    }
  }

  const kernels::ExecutionSpace& space_;
  Routes routes_;
  Progress& progress_;
  std::int64_t group_size_;
  kernels::CopyTable to_self_;
  std::shared_ptr<Ring> ring_;
  std::vector<Lane<Batch>> lanes_;
};

}  // namespace

std::byte* Ring::memory() {
  if (memory_.bytes() > 0 || bytes_ == 0) return memory_.data();
  memory_ = kernels::DeviceBuffer(bytes_);
  const kernels::ExecutionSpace space;
  kernels::fill(space, memory_.data(), DType::f32, {bytes_ / 4}, {1}, 0.0);
  space.fence();
  return memory_.data();
}

std::int64_t ring_bytes(const Tuning& tuning) {
  return tuning.streams * tuning.ring_chunks * aligned(tuning).chunk_bytes;
}

std::int64_t ring_bytes(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                        const Tuning& tuning) {
  return make_groups(routes, me, remote_copies(copies), aligned(tuning)).ring_bytes;
}

std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning,
                                   std::shared_ptr<Ring> ring, Progress& progress, const Forward& forward) {
  return std::make_unique<P2p>(space, routes, me, copies, tuning, std::move(ring), progress, forward);
}

std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning, Progress& progress) {
  return make_p2p(space, routes, me, copies, tuning, nullptr, progress);
}

}  // namespace refit::transport
