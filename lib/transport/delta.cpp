#include "transport/delta.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

#include "core/box.hpp"
#include "core/clock.hpp"
#include "kernels/delta.hpp"
#include "kernels/memory.hpp"
#include "transport/bytes.hpp"
#include "transport/lanes.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

using kernels::DeltaBlock;
using kernels::DeltaJob;

/// Returns the most bytes of a message, a block and a chunk; the same on all ranks.
std::int64_t message_bytes(const Tuning& tuning) {
  const std::int64_t bytes = std::min({tuning.chunk_bytes, tuning.packed_bytes, tuning.message_bytes});
  return std::max(kChunkAlignment, bytes - bytes % kChunkAlignment);
}

/// Returns the most bytes of the messages of a pair that has so many to send: enough messages for all lanes, each large
/// enough to be worth its cost. A block that is larger is a message of its own.
std::int64_t message_bytes(const Tuning& tuning, std::int64_t parts, std::int64_t bytes) {
  constexpr std::int64_t kWorthwhile = 256 << 10;
  constexpr std::int64_t kPerLane = 2;  // one is encoded while another is on its way
  return std::min(message_bytes(tuning), std::max(kWorthwhile, ceil_div(bytes, kPerLane * parts)));
}

/// Appends the parts of a copy's box that are blocks, in order: the same at both ends.
void append_blocks(const plan::Copy& copy, const Tuning& tuning, std::vector<Box>& out) {
  const std::int64_t fit = message_bytes(tuning) / byte_size(copy.source.format.dtype);
  append_cut(copy.box, std::min(kernels::kDeltaElements, fit), out);
}

/// Returns the lane of a part of a stage.
std::size_t lane_of(const Tuning& tuning, const Routes& routes, std::int32_t stage, std::int64_t part) {
  const std::int64_t parts = lanes_of_stage(tuning.streams, routes.stages());
  return static_cast<std::size_t>((stage * parts + part) % tuning.streams);
}

std::vector<plan::Copy> remote_copies(const std::vector<plan::Copy>& copies) {
  std::vector<plan::Copy> remote;
  std::ranges::copy_if(copies, std::back_inserter(remote), [](const plan::Copy& copy) { return !copy.to_self; });
  return remote;
}

/// The lanes of a rank with these copies, and the size of their chunks: no more and no longer ones than it needs.
struct RingNeed {
  std::set<std::size_t> lanes;
  std::int64_t chunk_bytes = 0;

  RingNeed(const Tuning& tuning, const Routes& routes, const std::vector<plan::Copy>& remote) {
    const std::int64_t parts = lanes_of_stage(tuning.streams, routes.stages());
    std::int64_t all = 0;  // bytes, were every block to travel as it is
    std::int64_t largest = 0;
    std::vector<Box> cut;
    for (const plan::Copy& copy : remote) {
      cut.clear();
      append_blocks(copy, tuning, cut);
      for (const Box& block : cut) {
        const std::int64_t bytes =
            round_up(block.volume() * byte_size(copy.source.format.dtype), kernels::kDeltaAlignment);
        all += bytes;
        largest = std::max(largest, bytes);
      }
      const std::int32_t stage = routes.stage(copy.source.rank);
      for (std::int64_t part = 0; part < parts; ++part) lanes.insert(lane_of(tuning, routes, stage, part));
    }
    // No pair has more than all bytes.
    chunk_bytes = round_up(std::min(all, std::max(largest, message_bytes(tuning, parts, all))), kChunkAlignment);
  }
};

/// A box that this rank sends, to one or several others, as it is stored.
struct SourceBox {
  layout::Place place;
  Extents extent;
  DType dtype = DType::bf16;
  std::uint32_t first_block = 0;  ///< in the table

  /// Returns the first element of the storage that the box has, and the one behind its last.
  std::pair<std::int64_t, std::int64_t> range() const {
    std::int64_t first = place.offset, last = place.offset;
    for (int d = 0; d < extent.size(); ++d) (place.strides[d] < 0 ? first : last) += (extent[d] - 1) * place.strides[d];
    return {first, last + 1};
  }
};

/// The distinct boxes that a rank sends, and the memory that keeps them: box by box without gaps, or, where boxes
/// overlap so much that it is less, the range of the storage that has them.
class SourceBoxes {
 public:
  /// Adds a copy's; returns its number.
  std::size_t add(const plan::Copy& copy) {
    const layout::Place& place = copy.source.place;
    const auto [found, is_new] =
        numbers_.try_emplace(std::tuple(place.storage, place.offset, place.strides, copy.box.extent), boxes_.size());
    if (is_new) boxes_.push_back({place, copy.box.extent, copy.source.format.dtype});
    return found->second;
  }
  std::vector<SourceBox>& all() { return boxes_; }

  /// Where a box is kept: the offset in bytes of its first element, and strides.
  struct Kept {
    std::int64_t offset = 0;
    Extents strides;
  };
  /// Returns the places of all boxes in memory of `bytes` bytes.
  std::vector<Kept> lay_out(std::int64_t& bytes) const {
    std::map<layout::StorageKey, std::vector<std::size_t>> by_storage;
    for (std::size_t i = 0; i < boxes_.size(); ++i) by_storage[boxes_[i].place.storage].push_back(i);
    std::vector<Kept> kept(boxes_.size());
    bytes = 0;
    for (const auto& [storage, numbers] : by_storage) {
      const std::int64_t size = byte_size(boxes_[numbers.front()].dtype);
      std::int64_t apart = 0, begin = boxes_[numbers.front()].range().first, end = 0;
      for (const std::size_t i : numbers) {
        apart += round_up(product(boxes_[i].extent) * size, kStorageAlignment);
        begin = std::min(begin, boxes_[i].range().first);
        end = std::max(end, boxes_[i].range().second);
      }
      begin -= begin % kStorageAlignment;  // elements keep their alignment
      const std::int64_t range = round_up((end - begin) * size, kStorageAlignment);
      for (const std::size_t i : numbers) {
        const SourceBox& box = boxes_[i];
        if (range < apart) {
          kept[i] = {bytes + (box.place.offset - begin) * size, box.place.strides};
        } else {
          kept[i] = {bytes, row_major_strides(box.extent)};
          bytes += round_up(product(box.extent) * size, kStorageAlignment);
        }
      }
      if (range < apart) bytes += range;
    }
    return kept;
  }

 private:
  std::vector<SourceBox> boxes_;
  std::map<std::tuple<layout::StorageKey, std::int64_t, Extents, Extents>, std::size_t> numbers_;
};

/// A block of a pair of ranks, in the order that both ends have.
struct PairBlock {
  std::uint32_t block = 0;  ///< in this rank's table
  std::int32_t tensor = 0;
};

/// What one rank sends to another, at one of its ends.
struct Pair {
  bool is_sent = false;  ///< from here
  std::int32_t stage = 0;
  int source = 0, destination = 0;  ///< world ranks
  int peer = 0;                     ///< the other end in the stage's communicator
  std::vector<PairBlock> blocks;

  int other() const { return is_sent ? destination : source; }
};

/// The sizes of a table's block.
struct BlockSize {
  std::uint32_t elements = 0;
  std::uint32_t value_bytes = 0;
};

/// A block of a pair with changed elements, as it is told.
struct Changed {
  std::uint32_t number = 0;  ///< among the pair's
  std::uint32_t elements = 0;
};

/// A message before it has a place: jobs begin .. end - 1 of all that are planned.
struct Planned {
  std::int32_t stage = 0;
  std::int64_t ordinal = 0;  ///< of the pair
  int source = 0, destination = 0;
  const Pair* pair = nullptr;
  std::int32_t tensor = 0;
  std::int64_t bytes = 0;
  std::size_t begin = 0, end = 0;

  /// One order of all messages of a job.
  auto order() const { return std::tuple(stage, ordinal, source, destination); }
};

/// Seconds in which blocks were encoded and decoded.
struct Coding {
  double encode = 0, decode = 0;
};

struct DeltaBatch : BatchMessages {
  const kernels::DeltaTable* sent = nullptr;
  const kernels::DeltaTable* received = nullptr;
  std::span<const DeltaJob> encoded, decoded;
  Coding* coding = nullptr;

  void pack(const kernels::ExecutionSpace& space) const {
    const double start = now();
    sent->encode(space, encoded);
    space.fence();
    coding->encode += now() - start;
  }
  void unpack(const kernels::ExecutionSpace& space) const {
    const double start = now();
    received->decode(space, decoded);
    space.fence();
    coding->decode += now() - start;
  }
};

class DeltaP2p final : public Executor {
 public:
  DeltaP2p(const kernels::ExecutionSpace& space, Control& world, const Routes& routes, const Endpoint& me,
           const std::vector<plan::Copy>& copies, const Tuning& tuning, std::shared_ptr<Ring> ring, Progress& progress)
      : space_(space),
        world_(world),
        routes_(routes),
        progress_(progress),
        tuning_(tuning),
        parts_(lanes_of_stage(tuning.streams, routes.stages())),
        ring_(std::move(ring)) {
    REFIT_ASSERT(tuning.delta != Delta::off);
    const std::vector<plan::Copy> remote = remote_copies(copies);
    std::vector<kernels::Tile> to_self;
    for (const plan::Copy& copy : copies) {
      REFIT_ASSERT(copy.fan_out == plan::FanOut::none);
      if (copy.to_self) to_self.push_back(self_tile(copy, me.source, me.destination));
    }
    to_self_ = kernels::CopyTable(space_, to_self, tuning.table);
    make_tables(me, remote);
    make_lanes(me, remote);
    world_dense_bytes_ = world_.sum(dense_bytes_);
  }

  void execute() override {
    const bool follows = has_base_;
    has_base_ = false;  // until all is done
    seconds_ = {};
    coding_ = {};
    bytes_ = changed_ = elements_ = 0;
    enqueue_traced(progress_.trace(), space_, Step::kernel, to_self_.bytes_written(), [&] { to_self_.run(space_); });
    if (follows) {
      send_changed();
    } else {
      send_all(nullptr);
    }
    space_.fence();
    has_base_ = true;
  }

  void restart() override { has_base_ = false; }

  void connect() override {
    std::vector<std::set<Greeting>> greetings(lanes_.size());
    for (const Pair& pair : pairs_) {
      const int self = routes_.communicator(pair.stage).rank();
      for (std::int64_t part = 0; part < parts_; ++part) {
        greetings[lane_of(pair.stage, part)].insert({pair.stage, communicator_lane(pair.stage, part),
                                                     pair.is_sent ? self : pair.peer, pair.is_sent ? pair.peer : self});
      }
    }
    greet(space_, routes_, greetings, tuning_.group_size, progress_);
  }

  MemoryList staging() const override { return {ring_->allocated()}; }
  Schedule schedule() const override { return dense_->schedule(); }

  std::vector<Statistic> statistics() const override {
    using Unit = Statistic::Unit;
    return {{"count", Unit::part, seconds_.count},
            {"exchange", Unit::part, seconds_.exchange},
            {"encode", Unit::part, coding_.encode},
            {"wire", Unit::part, seconds_.wire},
            {"decode", Unit::part, coding_.decode},
            {"keep", Unit::part, seconds_.keep},
            {kDeltaBytes, Unit::moved, static_cast<double>(bytes_)},
            {kDeltaDenseBytes, Unit::moved, static_cast<double>(dense_bytes_)},
            {kDeltaChanged, Unit::elements, static_cast<double>(changed_)},
            {kDeltaElements, Unit::elements, static_cast<double>(elements_)},
            {kKeptBytes, Unit::bytes, static_cast<double>(kept_.bytes() + sent_.bytes())}};
  }

 private:
  /// Seconds of the last `execute`, beside those of Coding.
  struct Seconds {
    double count = 0, exchange = 0, wire = 0, keep = 0;
  };

  std::size_t lane_of(std::int32_t stage, std::int64_t part) const {
    return transport::lane_of(tuning_, routes_, stage, part);
  }
  /// Returns the lane of the stage's communicator, as p2p has them.
  int communicator_lane(std::int32_t stage, std::int64_t part) const {
    return static_cast<int>((stage * parts_ + part) % (routes_.has_one() ? tuning_.streams : parts_));
  }

  Pair& pair_of(const plan::Copy& copy, bool is_sent) {
    const WorldRanks ranks = world_ranks(copy, routes_.map());
    const auto [found, is_new] =
        pair_numbers_.try_emplace(std::tuple(is_sent, ranks.source, ranks.destination), pairs_.size());
    if (is_new) {
      const std::int32_t stage = routes_.stage(copy.source.rank);
      pairs_.push_back(
          {is_sent,
           stage,
           ranks.source,
           ranks.destination,
           is_sent ? routes_.destination_peer(copy.destination.rank, stage) : routes_.source_peer(copy.source.rank),
           {}});
    }
    return pairs_[found->second];
  }

  void make_tables(const Endpoint& me, const std::vector<plan::Copy>& remote) {
    SourceBoxes boxes;
    for (const plan::Copy& copy : remote)
      if (me.sends(copy)) boxes.add(copy);
    std::int64_t bytes = 0;
    const std::vector<SourceBoxes::Kept> kept = boxes.lay_out(bytes);
    kept_ = kernels::DeviceBuffer(bytes);

    std::vector<DeltaBlock> sent, received;
    std::vector<bool> has_blocks(boxes.all().size(), false);
    std::vector<Box> cut;
    for (const plan::Copy& copy : remote) {
      cut.clear();
      append_blocks(copy, tuning_, cut);
      const bool is_sent = me.sends(copy);
      Pair& pair = pair_of(copy, is_sent);
      auto first = static_cast<std::uint32_t>(received.size());
      if (is_sent) {
        dense_bytes_ += copy.wire_bytes();
        all_elements_ += copy.elements();
        const std::size_t number = boxes.add(copy);
        SourceBox& box = boxes.all()[number];
        if (!has_blocks[number]) {
          box.first_block = static_cast<std::uint32_t>(sent.size());
          for (const Box& part : cut) sent.push_back(source_block(me, copy, part, kept[number]));
        }
        has_blocks[number] = true;
        first = box.first_block;
      } else {
        for (const Box& part : cut) received.push_back(destination_block(me, copy, part));
      }
      for (std::uint32_t i = 0; i < cut.size(); ++i) pair.blocks.push_back({first + i, copy.tensor});
    }
    sent_ = kernels::DeltaTable(space_, sent);
    received_ = kernels::DeltaTable(space_, received);
    sent_sizes_ = sizes_of(sent);
    received_sizes_ = sizes_of(received);
    counts_ = kernels::SharedBuffer(std::ssize(sent) * std::int64_t{sizeof(std::uint32_t)});
    std::int64_t encoded = 0, decoded = 0;
    for (const Pair& pair : pairs_) (pair.is_sent ? encoded : decoded) += std::ssize(pair.blocks);
    encoded_ = kernels::SharedBuffer(encoded * std::int64_t{sizeof(DeltaJob)});
    decoded_ = kernels::SharedBuffer(decoded * std::int64_t{sizeof(DeltaJob)});
  }

  DeltaBlock source_block(const Endpoint& me, const plan::Copy& copy, const Box& part,
                          const SourceBoxes::Kept& kept) const {
    const Extents shift = relative(part, copy.box);
    const layout::Place& place = copy.source.place;
    const DType dtype = copy.source.format.dtype;
    return {me.source.address(place, dtype) + offset_of(shift, place.strides) * byte_size(dtype),
            kept_.data() + kept.offset + offset_of(shift, kept.strides) * byte_size(dtype),
            part.extent,
            place.strides,
            kept.strides,
            dtype,
            dtype,
            Transform::none};
  }

  static DeltaBlock destination_block(const Endpoint& me, const plan::Copy& copy, const Box& part) {
    const layout::Place& place = copy.destination.place;
    const DType to = copy.destination.format.dtype;
    return {me.destination.address(place, to) + offset_of(relative(part, copy.box), place.strides) * byte_size(to),
            nullptr,
            part.extent,
            place.strides,
            {},
            copy.source.format.dtype,
            to,
            transform_of(copy)};
  }

  static std::vector<BlockSize> sizes_of(const std::vector<DeltaBlock>& blocks) {
    std::vector<BlockSize> sizes;
    for (const DeltaBlock& block : blocks)
      sizes.push_back(
          {static_cast<std::uint32_t>(product(block.extent)), static_cast<std::uint32_t>(byte_size(block.from))});
    return sizes;
  }
  const BlockSize& size_of(const Pair& pair, std::uint32_t block) const {
    return (pair.is_sent ? sent_sizes_ : received_sizes_)[block];
  }

  /// Makes p2p, the ring that it shares with deltas, and the lanes.
  void make_lanes(const Endpoint& me, const std::vector<plan::Copy>& remote) {
    const RingNeed need(tuning_, routes_, remote);
    chunk_bytes_ = need.chunk_bytes;
    const std::int64_t lane_bytes = tuning_.ring_chunks * chunk_bytes_;
    if (!ring_) ring_ = std::make_shared<Ring>(delta_ring_bytes(routes_, me, remote, tuning_));
    dense_ = make_p2p(space_, routes_, me, remote, tuning_, ring_, progress_);
    std::byte* next = remote.empty() ? nullptr : ring_->memory();
    for (std::int64_t lane = 0; lane < tuning_.streams; ++lane) {
      lanes_.emplace_back(tuning_.ring_chunks);
      chunks_.push_back(next);
      if (!need.lanes.contains(static_cast<std::size_t>(lane))) continue;
      next += lane_bytes;
      const auto group = static_cast<std::size_t>(
          std::min(tuning_.group_size, std::max<std::int64_t>(1, chunk_bytes_ / kernels::kDeltaAlignment)));
      lanes_.back().make_requests(routes_.communicator(pairs_.front().stage),
                                  static_cast<std::size_t>(tuning_.ring_chunks), group);
    }
  }

  void send_all(const std::uint32_t* counts) {
    double start = now();
    dense_->execute();
    bytes_ += dense_bytes_;
    seconds_.wire = now() - start;
    keep(counts);
  }

  void keep(const std::uint32_t* counts) {
    const double start = now();
    sent_.keep(space_, counts);
    space_.fence();
    seconds_.keep = now() - start;
  }

  void send_changed() {
    double start = now();
    auto* counts = reinterpret_cast<std::uint32_t*>(counts_.data());
    {
      const Stepping counting(progress_.trace(), Step::kernel, counts_.bytes());
      sent_.count(space_, counts);
      space_.fence();
    }
    seconds_.count = now() - start;

    start = now();
    const std::vector<std::vector<Changed>> changed = exchange(counts);
    std::int64_t encoded = 0;
    plan(changed, encoded);
    // p2p has no blocks to encode and decode: it is the faster one where both send about as much.
    constexpr std::int64_t kSixteenths = 15;
    const bool all = 16 * world_.sum(encoded) >= kSixteenths * world_dense_bytes_;
    seconds_.exchange = now() - start;
    if (all) return send_all(counts);

    bytes_ += encoded;
    make_batches();
    start = now();
    run(lanes_, space_, routes_, progress_);
    seconds_.wire = std::max(0.0, now() - start - coding_.encode - coding_.decode);
    keep(counts);
  }

  /// Tells the counts of what has changed; returns those of all pairs, in their order.
  std::vector<std::vector<Changed>> exchange(const std::uint32_t* counts) {
    std::vector<std::vector<Changed>> changed(pairs_.size());
    std::vector<Control::Bytes> to(static_cast<std::size_t>(world_.size()));
    elements_ = all_elements_;
    for (std::size_t p = 0; p < pairs_.size(); ++p) {
      if (!pairs_[p].is_sent) continue;
      Control::Bytes& bytes = to[static_cast<std::size_t>(pairs_[p].other())];
      for (std::uint32_t i = 0; i < pairs_[p].blocks.size(); ++i) {
        const std::uint32_t count = counts[pairs_[p].blocks[i].block];
        if (count == 0) continue;
        changed[p].push_back({i, count});
        append(bytes, changed[p].back());
        changed_ += count;
      }
      bytes_ += std::ssize(bytes);
    }
    const std::vector<Control::Bytes> from = world_.exchange(to);
    for (std::size_t p = 0; p < pairs_.size(); ++p)
      if (!pairs_[p].is_sent) changed[p] = read_all<Changed>(from[static_cast<std::size_t>(pairs_[p].other())]);
    return changed;
  }

  /// Makes the messages of all pairs, in their order on this rank, and adds up the bytes of those that it sends.
  void plan(const std::vector<std::vector<Changed>>& changed, std::int64_t& sent_bytes) {
    messages_.clear();
    jobs_.clear();
    for (std::size_t p = 0; p < pairs_.size(); ++p) {
      const Pair& pair = pairs_[p];
      const std::size_t first = jobs_.size();
      std::int64_t bytes = 0;
      for (const Changed& one : changed[p]) {
        const std::uint32_t block = pair.blocks[one.number].block;
        const BlockSize& size = size_of(pair, block);
        jobs_.push_back(
            {nullptr, block, one.elements, form_of(tuning_.delta, size.elements, one.elements, size.value_bytes)});
        bytes += bytes_of(pair, jobs_.back());
      }
      if (pair.is_sent) sent_bytes += bytes;
      cut(pair, changed[p], first, bytes);
    }
    std::ranges::sort(messages_, {}, &Planned::order);
  }

  std::int64_t bytes_of(const Pair& pair, const DeltaJob& job) const {
    const BlockSize& size = size_of(pair, job.block);
    return kernels::delta_bytes(job.form, size.elements, job.changed, size.value_bytes);
  }

  /// Cuts the jobs of a pair from `first` on, of `bytes` bytes, into messages.
  void cut(const Pair& pair, const std::vector<Changed>& changed, std::size_t first, std::int64_t bytes) {
    const std::int64_t most = message_bytes(tuning_, parts_, bytes);
    const std::size_t begin = messages_.size();
    for (std::size_t i = 0; i < changed.size(); ++i) {
      const std::size_t job = first + i;
      const std::int64_t size = bytes_of(pair, jobs_[job]);
      if (messages_.size() == begin || messages_.back().bytes + size > most) {
        messages_.push_back({pair.stage, static_cast<std::int64_t>(messages_.size() - begin), pair.source,
                             pair.destination, &pair, pair.blocks[changed[i].number].tensor, 0, job, job});
      }
      messages_.back().bytes += size;
      messages_.back().end = job + 1;
    }
  }

  /// Deals messages to lanes and groups them, each group in one chunk of its lane.
  void make_batches() {
    std::vector<std::vector<std::pair<int, const Planned*>>> dealt(lanes_.size());
    for (const Planned& message : messages_) {
      // Pairs of few messages begin on different lanes.
      const std::int64_t part = (message.ordinal + message.source + message.destination) % parts_;
      dealt[lane_of(message.stage, part)].emplace_back(communicator_lane(message.stage, part), &message);
    }
    auto* encoded = reinterpret_cast<DeltaJob*>(encoded_.data());
    auto* decoded = reinterpret_cast<DeltaJob*>(decoded_.data());
    for (std::size_t l = 0; l < lanes_.size(); ++l) {
      std::vector<DeltaBatch>& batches = lanes_[l].batches();
      batches.clear();
      std::int64_t used = 0;
      for (const auto& [lane, message] : dealt[l]) {
        const bool continues =
            !batches.empty() && batches.back().stage == message->stage && batches.back().lane == lane &&
            std::ssize(batches.back().messages) < tuning_.group_size && used + message->bytes <= chunk_bytes_;
        if (!continues) {
          DeltaBatch& batch = batches.emplace_back();
          batch.stage = message->stage;
          batch.lane = lane;
          batch.first_tensor = message->tensor;
          batch.sent = &sent_;
          batch.received = &received_;
          batch.encoded = {encoded, 0};
          batch.decoded = {decoded, 0};
          batch.coding = &coding_;
          used = 0;
        }
        DeltaBatch& batch = batches.back();
        const std::int64_t chunk = (std::ssize(batches) - 1) % tuning_.ring_chunks;
        std::byte* wire = chunks_[l] + chunk * chunk_bytes_ + used;
        const Pair& pair = *message->pair;
        batch.messages.push_back(
            {pair.is_sent ? Message::Kind::send : Message::Kind::receive, pair.peer, wire, message->bytes});
        used += message->bytes;
        (pair.is_sent ? batch.packed_bytes : batch.unpacked_bytes) += message->bytes;
        DeltaJob*& next = pair.is_sent ? encoded : decoded;
        for (std::size_t i = message->begin; i < message->end; ++i) {
          *next = jobs_[i];
          next->wire = wire;
          wire += bytes_of(pair, jobs_[i]);
          ++next;
        }
        std::span<const DeltaJob>& jobs = pair.is_sent ? batch.encoded : batch.decoded;
        jobs = {jobs.data(), jobs.size() + (message->end - message->begin)};
      }
    }
  }

  const kernels::ExecutionSpace& space_;
  Control& world_;
  Routes routes_;
  Progress& progress_;
  const Tuning tuning_;
  const std::int64_t parts_;  ///< lanes of a stage
  kernels::CopyTable to_self_;
  std::shared_ptr<Ring> ring_;
  std::unique_ptr<Executor> dense_;  ///< of the same copies, but those to oneself
  bool has_base_ = false;            ///< destination ranks hold what is kept
  kernels::DeviceBuffer kept_;
  kernels::DeltaTable sent_, received_;
  std::vector<BlockSize> sent_sizes_, received_sizes_;
  std::vector<Pair> pairs_;
  std::map<std::tuple<bool, int, int>, std::size_t> pair_numbers_;
  kernels::SharedBuffer counts_, encoded_, decoded_;
  std::int64_t dense_bytes_ = 0, world_dense_bytes_ = 0, all_elements_ = 0;
  std::vector<Lane<DeltaBatch>> lanes_;
  std::vector<std::byte*> chunks_;  ///< of each lane
  std::int64_t chunk_bytes_ = 0;

  // Of the last `execute`:
  std::vector<Planned> messages_;
  std::vector<DeltaJob> jobs_;
  Seconds seconds_;
  Coding coding_;
  std::int64_t bytes_ = 0, changed_ = 0, elements_ = 0;
};

}  // namespace

std::unique_ptr<Executor> make_delta(const kernels::ExecutionSpace& space, Control& world, const Routes& routes,
                                     const Endpoint& me, const std::vector<plan::Copy>& copies, const Tuning& tuning,
                                     std::shared_ptr<Ring> ring, Progress& progress) {
  return std::make_unique<DeltaP2p>(space, world, routes, me, copies, tuning, std::move(ring), progress);
}

std::int64_t delta_ring_bytes(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                              const Tuning& tuning) {
  const std::vector<plan::Copy> remote = remote_copies(copies);
  const RingNeed need(tuning, routes, remote);
  return std::max(std::ssize(need.lanes) * tuning.ring_chunks * need.chunk_bytes,
                  ring_bytes(routes, me, remote, tuning));
}

}  // namespace refit::transport
