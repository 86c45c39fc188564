#include "transport/p2p.hpp"

#include <algorithm>
#include <thread>

#include "layout/partition.hpp"
#include "transport/segment.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

/// With chunks that are a whole number of alignments, so that every staged part is aligned.
Tuning aligned(Tuning tuning) {
  REFIT_ASSERT(tuning.streams >= 1 && tuning.group_size >= 1 && tuning.ring_chunks >= 1);
  REFIT_ASSERT(tuning.chunk_bytes >= kChunkAlignment);
  tuning.chunk_bytes -= tuning.chunk_bytes % kChunkAlignment;
  return tuning;
}

/// A group of messages whose staged parts fill one chunk of the ring.
struct Batch {
  std::int32_t stage = 0;
  std::int32_t first_tensor = 0;
  std::vector<Message> messages;
  kernels::CopyTable pack;    // storages -> chunk, before the group
  kernels::CopyTable unpack;  // chunk -> storages, after it
};

/// One stage in flight at a time: its batches, in the plan's order, with up to `ring` of them between pack and unpack.
class Lane {
 public:
  Lane(int number, std::int64_t ring) : number_(number), ring_(static_cast<std::size_t>(ring)) {}

  std::vector<Batch>& batches() { return batches_; }

  void make_requests(const Routes& routes) {
    std::int64_t largest = 0;
    for (const Batch& batch : batches_) largest = std::max(largest, static_cast<std::int64_t>(batch.messages.size()));
    if (batches_.empty()) return;
    for (std::size_t i = 0; i < std::min(ring_, batches_.size()); ++i) {
      requests_.push_back(routes.communicator(batches_.front().stage).make_request(largest));
    }
  }

  void start() { posted_ = completed_ = 0; }
  bool done() const { return completed_ == batches_.size(); }

  /// Posts and completes what it can; true if anything moved.
  bool advance(const kernels::ExecutionSpace& space, const Routes& routes, Progress& progress) {
    bool moved = false;
    // Batches are in the same order at both ends of every pair: the first incomplete segment of all ranks is posted at
    // both its ends, so something always completes.
    while (posted_ < batches_.size() && posted_ < completed_ + requests_.size()) {
      Batch& batch = batches_[posted_];
      batch.pack.run(space);
      space.fence();
      routes.communicator(batch.stage).post(batch.messages, number_, *requests_[posted_ % requests_.size()]);
      ++posted_;
      moved = true;
    }
    while (completed_ < posted_ && requests_[completed_ % requests_.size()]->test()) {
      batches_[completed_].unpack.run(space);
      space.fence();  // its chunk is free for the batch after next
      ++completed_;
      moved = true;
    }
    if (completed_ < batches_.size()) {
      const Batch& waiting = batches_[completed_];
      progress.stage = waiting.stage;
      progress.tensor = waiting.first_tensor;
      progress.peer = waiting.messages.empty() ? -1 : waiting.messages.front().peer;
    }
    return moved;
  }

 private:
  int number_;
  std::size_t ring_;
  std::vector<Batch> batches_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::size_t posted_ = 0;
  std::size_t completed_ = 0;
};

/// Fills batches: at most `group_size` messages, and at most one chunk of staged bytes.
class BatchBuilder {
 public:
  BatchBuilder(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me, const Tuning& tuning)
      : space_(space), routes_(routes), me_(me), tuning_(tuning) {}

  /// The batches of one stage, appended to `lane`, whose ring begins at `ring`.
  void build(std::int32_t stage, std::span<const Segment> segments, std::byte* ring, std::vector<Batch>& lane) {
    lane_ = &lane;
    ring_ = ring;
    for (const Segment& segment : segments) {
      const bool sending = me_.side == Side::source;
      const bool staged = sending ? !segment.zero_copy_source : !segment.zero_copy_destination;
      const std::int64_t room = staged ? segment.bytes : 0;
      if (static_cast<std::int64_t>(batch_.messages.size()) >= tuning_.group_size || used_ + room > chunk()) flush();
      if (batch_.messages.empty()) begin(stage, segment.copy.tensor);
      add(segment, sending, staged);
      used_ += layout::round_up(room, kChunkAlignment);
    }
    flush();
  }

  std::int64_t chunk() const { return tuning_.chunk_bytes; }

 private:
  void begin(std::int32_t stage, std::int32_t tensor) {
    batch_.stage = stage;
    batch_.first_tensor = tensor;
    used_ = 0;
  }

  void add(const Segment& segment, bool sending, bool staged) {
    const auto slot = static_cast<std::int64_t>(lane_->size()) % tuning_.ring_chunks;
    std::byte* wire = staged ? ring_ + slot * chunk() + used_ : nullptr;
    const plan::Copy& copy = segment.copy;
    if (staged && sending) pack_.push_back(pack_tile(copy, me_.source, wire));
    if (staged && !sending) unpack_.push_back(unpack_tile(copy, wire, me_.destination));
    if (!staged) {
      wire = sending ? me_.source.address(copy.source.place, copy.source.format.dtype)
                     : me_.destination.address(copy.destination.place, copy.destination.format.dtype);
    }
    batch_.messages.push_back(
        {sending ? Message::Kind::send : Message::Kind::receive,
         sending ? routes_.destination_peer(copy.destination.rank) : routes_.source_peer(copy.source.rank), wire,
         segment.bytes});
  }

  void flush() {
    if (batch_.messages.empty()) return;
    batch_.pack = kernels::CopyTable(space_, pack_);
    batch_.unpack = kernels::CopyTable(space_, unpack_);
    lane_->push_back(std::move(batch_));
    batch_ = {};
    pack_.clear();
    unpack_.clear();
    used_ = 0;
  }

  const kernels::ExecutionSpace& space_;
  const Routes& routes_;
  const Endpoint& me_;
  const Tuning& tuning_;
  std::vector<Batch>* lane_ = nullptr;
  std::byte* ring_ = nullptr;
  Batch batch_;
  std::vector<kernels::Tile> pack_, unpack_;
  std::int64_t used_ = 0;
};

class P2p final : public Executor {
 public:
  P2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
      const std::vector<plan::Copy>& copies, const Tuning& tuning, std::shared_ptr<Ring> ring, Progress& progress)
      : space_(space), routes_(routes), progress_(progress), ring_(std::move(ring)) {
    std::vector<plan::Copy> remote;
    for (const plan::Copy& copy : copies) (is_local(copy, me) ? local_ : remote).push_back(copy);
    make_local_table(me);
    make_lanes(me, remote, aligned(tuning));
  }

  void execute() override {
    local_table_.run(space_);
    for (Lane& lane : lanes_) lane.start();
    for (bool busy = true; busy;) {
      busy = false;
      bool moved = false;
      for (Lane& lane : lanes_) {
        if (lane.done()) continue;
        moved |= lane.advance(space_, routes_, progress_);
        busy |= !lane.done();
      }
      if (busy && !moved) std::this_thread::yield();
    }
    space_.fence();
  }

  MemoryList staging() const override { return {ring_->allocated()}; }

 private:
  bool is_local(const plan::Copy& copy, const Endpoint& me) const {
    const std::int32_t stage = routes_.stage(copy.source.rank);
    const int peer = me.side == Side::source ? routes_.destination_peer(copy.destination.rank)
                                             : routes_.source_peer(copy.source.rank);
    return routes_.communicator(stage).rank() == peer;
  }

  void make_local_table(const Endpoint& me) {
    std::vector<kernels::Tile> tiles;
    for (const plan::Copy& copy : local_) {
      tiles.push_back(make_tile(copy, me.source.address(copy.source.place, copy.source.format.dtype),
                                me.destination.address(copy.destination.place, copy.destination.format.dtype)));
    }
    local_table_ = kernels::CopyTable(space_, tiles);
    local_.clear();
  }

  void make_lanes(const Endpoint& me, const std::vector<plan::Copy>& remote, const Tuning& tuning) {
    std::vector<std::vector<plan::Copy>> by_stage(static_cast<std::size_t>(routes_.stages()));
    for (const plan::Copy& copy : remote)
      by_stage[static_cast<std::size_t>(routes_.stage(copy.source.rank))].push_back(copy);

    std::vector<std::vector<Segment>> segments;
    std::vector<bool> lane_stages(static_cast<std::size_t>(tuning.streams), false);
    for (std::size_t stage = 0; stage < by_stage.size(); ++stage) {
      segments.push_back(make_segments(by_stage[stage], tuning.chunk_bytes));
      const bool staged = std::any_of(segments.back().begin(), segments.back().end(), [&](const Segment& segment) {
        return me.side == Side::source ? !segment.zero_copy_source : !segment.zero_copy_destination;
      });
      if (staged) lane_stages[stage % lane_stages.size()] = true;
    }
    const std::int64_t lane_bytes = tuning.chunk_bytes * tuning.ring_chunks;
    const auto staged_lanes = std::count(lane_stages.begin(), lane_stages.end(), true);
    if (!ring_) ring_ = std::make_shared<Ring>(lane_bytes * staged_lanes);
    std::byte* ring = staged_lanes > 0 ? ring_->memory() : nullptr;

    BatchBuilder builder(space_, routes_, me, tuning);
    for (std::size_t lane = 0; lane < lane_stages.size(); ++lane) {
      lanes_.emplace_back(static_cast<int>(lane), tuning.ring_chunks);
      for (std::size_t stage = lane; stage < segments.size(); stage += lane_stages.size()) {
        builder.build(static_cast<std::int32_t>(stage), segments[stage], ring, lanes_.back().batches());
      }
      lanes_.back().make_requests(routes_);
      if (lane_stages[lane]) ring += lane_bytes;
    }
  }

  const kernels::ExecutionSpace& space_;
  Routes routes_;
  Progress& progress_;
  std::vector<plan::Copy> local_;
  kernels::CopyTable local_table_;
  std::shared_ptr<Ring> ring_;
  std::vector<Lane> lanes_;
};

}  // namespace

std::byte* Ring::memory() {
  if (memory_.bytes() == 0) memory_ = kernels::DeviceBuffer(bytes_);
  return memory_.data();
}

std::int64_t ring_bytes(const Tuning& tuning) {
  return tuning.streams * tuning.ring_chunks * aligned(tuning).chunk_bytes;
}

std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning,
                                   std::shared_ptr<Ring> ring, Progress& progress) {
  return std::make_unique<P2p>(space, routes, me, copies, tuning, std::move(ring), progress);
}

std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning, Progress& progress) {
  return make_p2p(space, routes, me, copies, tuning, nullptr, progress);
}

}  // namespace refit::transport
