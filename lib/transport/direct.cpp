#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "transport/bytes.hpp"
#include "transport/executor.hpp"
#include "transport/location.hpp"
#include "transport/rounds.hpp"
#include "transport/scale_grid.hpp"
#include "transport/segment.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

constexpr std::int64_t kFlagBytes = sizeof(std::uint64_t);
constexpr std::int64_t kNoFlag = -1;

/// A destination's places for a copy: the offset of its bytes in the rank's memory, and of the flag of its first chunk
/// in the flags; for a weight that is quantised on the way also the places of the scales of its blocks.
struct Target {
  std::int64_t offset;
  std::int64_t flag;
  std::int64_t scales;
  Extents scale_strides;
};

class Direct final : public Executor {
 public:
  Direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
         const std::vector<model::Tensor>& tensors, const std::vector<plan::Copy>& copies, PeerMemory& peers,
         std::unique_ptr<PeerMemory> flags, Control& world, const WorldMap& map, const Tuning& tuning,
         Progress& progress, const QuantisedSends& sends)
      : space_(space),
        me_(me),
        map_(map),
        peers_(peers),
        flags_(std::move(flags)),
        world_(world),
        progress_(progress),
        tuning_(tuning),
        sends_(sends),
        devices_(gather_all(world, location().device)) {
    const Mapped mapped = agree_on_mapping();
    std::vector<plan::Copy> served, unmapped;
    std::vector<bool> relayed_by_p2p;  // of served copies that are forwarded
    std::set<int> unmapped_peers;
    bool by_p2p = false;  // of the last relayed copy that arrives
    for (const plan::Copy& copy : copies) {
      if (are_scales(copy)) continue;  // the tiles of their weight store them
      const bool arrives = me_.receives(copy);
      const int peer = arrives ? world_ranks(copy, map).source : world_ranks(copy, map).destination;
      const bool is_served = (arrives ? mapped.from : mapped.to)[static_cast<std::size_t>(peer)];
      REFIT_ASSERT(!is_served || copy.fan_out != plan::FanOut::passed);  // domains that map each other hand nothing on
      if (arrives && copy.is_fed_on()) by_p2p = !is_served;
      if (is_served) relayed_by_p2p.push_back(by_p2p && copy.fan_out == plan::FanOut::forwarded);
      (is_served ? served : unmapped).push_back(copy);
      if (!is_served) unmapped_peers.insert(peer);
    }
    unmapped_peers_ = unmapped_peers.size();
    make_table(served, relayed_by_p2p);
    const bool anybody_unmapped = world.max(static_cast<std::int64_t>(unmapped.empty() ? 0 : 1)) != 0;
    REFIT_ASSERT(!anybody_unmapped || sends_.quantise == nullptr);
    if (!anybody_unmapped) return;
    const Forward forward = [this](const plan::Copy& part, std::vector<kernels::Tile>& tiles) {
      add_forwards(part, tiles);
    };
    const bool hands_on = std::ranges::any_of(copies, [](const plan::Copy& copy) { return copy.hops > 0; });
    fallback_ = world.max(std::int64_t{hands_on}) != 0
                    ? make_rounds(space, routes, me, tensors, unmapped, tuning, progress, forward)
                    : make_p2p(space, routes, me, unmapped, tuning, nullptr, progress, forward);
    relayed_.clear();
  }

  void execute() override {
    const auto start = std::chrono::steady_clock::now();
    ++epoch_;
    Trace* trace = progress_.trace();
    const int begin = trace == nullptr ? 0 : trace->after(space_);
    engines_.begin(space_);
    for (const kernels::CopyTable* table : {&across_, &table_, &forwards_})
      enqueue_traced(trace, space_, Step::kernel, table->bytes_written(), [&] { table->run(space_, epoch_); });
    engines_.finish(space_);
    if (trace != nullptr && engines_.bytes() > 0)
      trace->add(Step::engine, begin, trace->after(engines_), engines_.bytes());
    enqueue_ = std::chrono::steady_clock::now() - start;
    if (fallback_) fallback_->execute();
    space_.fence();
    peers_.fence();
    progress_.peer = -1;
    world_.barrier();  // every source's stores are complete
    peers_.fence();
  }

  void connect() override {
    if (fallback_) fallback_->connect();
  }

  MemoryList staging() const override { return fallback_ ? fallback_->staging() : MemoryList{}; }
  Schedule schedule() const override { return fallback_ ? fallback_->schedule() : Schedule{}; }
  std::vector<Statistic> statistics() const override {
    return {{"unmapped_peers", Statistic::Unit::ranks, static_cast<double>(unmapped_peers_)},
            {"engine_bytes", Statistic::Unit::moved, static_cast<double>(engines_.bytes())},
            {"enqueue", Statistic::Unit::seconds, enqueue_.count()}};
  }

 private:
  const model::Tensor& tensor_of(const plan::Copy& copy) const { return sends_.quantise->model()[copy.tensor]; }
  bool is_quantised(const plan::Copy& copy) const { return sends_.quantise != nullptr && tensor_of(copy).scales >= 0; }
  bool are_scales(const plan::Copy& copy) const { return sends_.quantise != nullptr && tensor_of(copy).scale_of >= 0; }
  ScaleGrid grid_of(const plan::Copy& copy) const {
    const auto& tensors = sends_.quantise->model().tensors;
    return {tensors[static_cast<std::size_t>(tensor_of(copy).scales)], sends_.quantise->quantiser()};
  }
  /// Returns the place of the scales of a part of a copy on this rank, a destination.
  layout::Place scales_of(const plan::Copy& copy, const Box& box) const {
    return grid_of(copy).place(*sends_.destination, *me_.self.destination, box);
  }

  std::int64_t flag_bytes(const plan::Copy& relayed) const {
    return kFlagBytes * std::ssize(fan_out_chunks(relayed, tuning_));
  }

  /// By world rank, whether copies to that rank, and from it, can be served directly. The sending rank is the one that
  /// maps.
  struct Mapped {
    std::vector<bool> to, from;
  };
  Mapped agree_on_mapping() {
    std::vector<Control::Bytes> can_map(static_cast<std::size_t>(world_.size()));
    for (int rank = 0; rank < world_.size(); ++rank) {
      append(can_map[static_cast<std::size_t>(rank)], static_cast<std::uint8_t>(peers_.map(rank) != nullptr));
    }
    const std::vector<Control::Bytes> can_be_mapped = world_.exchange(can_map);
    Mapped mapped;
    for (std::size_t rank = 0; rank < can_map.size(); ++rank) {
      mapped.to.push_back(can_map[rank].front() != std::byte{0});
      mapped.from.push_back(can_be_mapped[rank].front() != std::byte{0});
    }
    return mapped;
  }

  /// Tells each sender the places of the copies that it shares with this destination, in the plan's order.
  std::vector<std::vector<Target>> exchange_targets(const std::vector<plan::Copy>& copies) {
    if (flags_ != nullptr) {
      const std::int64_t bytes = fan_out_flag_bytes(copies, me_.self, tuning_);
      if (bytes > 0) kernels::fill(space_, flags_->local(), DType::f32, {bytes / 4}, {1}, 0.0);
      space_.fence();
    }
    std::vector<Control::Bytes> targets(static_cast<std::size_t>(world_.size()));
    std::int64_t flag = 0;
    for (const plan::Copy& copy : copies) {
      if (!me_.receives(copy)) continue;
      const bool relayed = copy.fan_out == plan::FanOut::relayed;
      const std::byte* address = me_.destination.address(copy.destination.place, copy.destination.format.dtype);
      Target target{peers_.offset(address), relayed ? flag : kNoFlag, 0, {}};
      if (is_quantised(copy)) {
        const layout::Place scales = scales_of(copy, copy.box);
        target.scales = peers_.offset(me_.destination.address(scales, scale_dtype(sends_.quantise->quantiser())));
        target.scale_strides = scales.strides;
      }
      append(targets[static_cast<std::size_t>(world_ranks(copy, map_).source)], target);
      if (relayed) flag += flag_bytes(copy);
    }
    std::vector<std::vector<Target>> result;
    for (const Control::Bytes& bytes : world_.exchange(targets)) result.push_back(read_all<Target>(bytes));
    return result;
  }

  /// `relayed_by_p2p`: by copy, whether it forwards what comes as messages.
  void make_table(const std::vector<plan::Copy>& copies, const std::vector<bool>& relayed_by_p2p) {
    const std::vector<std::vector<Target>> targets = exchange_targets(copies);
    std::vector<std::size_t> next(targets.size(), 0);
    std::vector<kernels::Tile> tiles, forwards;
    std::int64_t arriving = 0;  // flag of the last relayed copy in the plan so far
    std::int64_t flag = 0;
    for (std::size_t i = 0; i < copies.size(); ++i) {
      const plan::Copy& copy = copies[i];
      if (me_.receives(copy) && copy.fan_out == plan::FanOut::relayed) {
        arriving = flag;
        flag += flag_bytes(copy);
      }
      if (!me_.sends(copy)) continue;
      const auto peer = static_cast<std::size_t>(world_ranks(copy, map_).destination);
      REFIT_ASSERT(next[peer] < targets[peer].size());
      const Target target = targets[peer][next[peer]++];
      if (copy.fan_out == plan::FanOut::none) {
        add_tiles(copy, copy.box, peer, target, nullptr, nullptr, tiles);
      } else if (relayed_by_p2p[i]) {
        relayed_[copy.tensor].push_back({copy, peer, target});
      } else {
        const bool is_forward = copy.fan_out == plan::FanOut::forwarded;
        append_chunks(copy, peer, target, is_forward ? arriving : target.flag, is_forward ? forwards : tiles);
      }
    }
    make_tables(std::move(tiles));
    forwards_ = kernels::CopyTable(space_, forwards, tuning_.table);
  }

  /// Appends the tiles that forward `part` of a relayed copy, which has arrived as a message.
  void add_forwards(const plan::Copy& part, std::vector<kernels::Tile>& tiles) const {
    const auto found = relayed_.find(part.tensor);
    if (found == relayed_.end()) return;
    for (const Relayed& to : found->second)
      if (intersect(to.copy.box, part.box) == part.box)
        add_tiles(to.copy, part.box, to.peer, to.target, nullptr, nullptr, tiles);
  }

  /// Divides tiles that wait for nobody between copy engines and kernels. Beside engines, kernels store first what they
  /// have for other devices, since both share the link, and then what stays on this one, with few teams: they take
  /// memory's time from the engines. With 132 teams, two H200 that send each other 8.2 GB and copy as much within
  /// themselves take 22.1 ms, with 16 to 64 21.3.
  void make_tables(std::vector<kernels::Tile> tiles) {
    constexpr std::int64_t kTeams = 32;
    const auto stays = [&](const kernels::Tile& tile) {
      return devices_[static_cast<std::size_t>(tile.peer)] == devices_[static_cast<std::size_t>(world_.rank())];
    };
    const auto leaving = std::ranges::stable_partition(tiles, stays).begin();
    std::vector<kernels::Tile> across(leaving, tiles.end());
    tiles.erase(leaving, tiles.end());
    engines_ = kernels::EngineTable(kernels::take_engine_copies(across, tuning_.engines), tuning_.engines);
    kernels::TableSizes sizes = tuning_.table;
    if (engines_.bytes() > 0) {
      std::int64_t bytes = 0;
      for (const kernels::Tile& tile : tiles) bytes += product(tile.extent) * byte_size(tile.to);
      sizes.most_teams = kTeams * std::max<std::int64_t>(1, ceil_div(bytes, engines_.bytes()));
      across_ = kernels::CopyTable(space_, across, tuning_.table);
    } else {
      tiles.insert(tiles.end(), across.begin(), across.end());
    }
    table_ = kernels::CopyTable(space_, tiles, sizes);
  }

  /// Returns the tiles that bring `box`, a part of a copy, to its target at `peer`.
  std::vector<kernels::Tile> make_tiles(const plan::Copy& copy, const Box& box, std::size_t peer,
                                        const Target& target) const {
    const Extents shift = relative(box, copy.box);
    const DType to = copy.destination.format.dtype;
    std::byte* destination = peers_.at(static_cast<int>(peer), target.offset) +
                             offset_of(shift, copy.destination.place.strides) * byte_size(to);
    const bool forwards = copy.is_from_taker();
    if (is_quantised(copy) && !forwards) return quantising_tiles(copy, box, destination, peer, target);
    const DType from = copy.source.format.dtype;
    const LocalMemory& memory = forwards ? me_.destination : me_.source;
    const std::byte* source =
        memory.address(copy.source.place, from) + offset_of(shift, copy.source.place.strides) * byte_size(from);
    std::vector<kernels::Tile> tiles{make_tile(copy, source, destination)};
    tiles.front().extent = box.extent;
    if (is_quantised(copy)) tiles.push_back(scales_tile(copy, box, peer, target));
    return tiles;
  }

  void add_tiles(const plan::Copy& copy, const Box& box, std::size_t peer, const Target& target,
                 const std::uint64_t* wait, std::uint64_t* signal, std::vector<kernels::Tile>& tiles) const {
    for (kernels::Tile& tile : make_tiles(copy, box, peer, target)) {
      tile.peer = static_cast<std::int32_t>(peer);
      tile.wait = wait;
      tile.signal = signal;
      tiles.push_back(tile);
    }
  }

  /// Returns the address of the first scale of touched(box) at the target, whose first scale is the copy's.
  std::byte* scales_at(const plan::Copy& copy, const Box& box, std::size_t peer, const Target& target) const {
    const ScaleGrid grid = grid_of(copy);
    const Extents shift = relative(grid.touched(box), grid.touched(copy.box));
    const DType dtype = scale_dtype(sends_.quantise->quantiser());
    return peers_.at(static_cast<int>(peer), target.scales) + offset_of(shift, target.scale_strides) * byte_size(dtype);
  }

  /// Returns the tiles from the weight's own values to the target's bytes and scales. A scale of a block that several
  /// tiles have parts of is stored by each of them, with the same bits.
  std::vector<kernels::Tile> quantising_tiles(const plan::Copy& copy, const Box& box, std::byte* destination,
                                              std::size_t peer, const Target& target) const {
    const int row = box.extent.size() - 2;
    const Extents& strides = copy.destination.place.strides;
    const std::int64_t scale_bytes = byte_size(scale_dtype(sends_.quantise->quantiser()));
    std::byte* scales = scales_at(copy, box, peer, target);
    std::vector<kernels::Tile> tiles = sends_.quantise->tiles(copy.source.place.storage, box);
    for (kernels::Tile& tile : tiles) {
      tile.destination = destination;
      tile.destination_strides = {strides[row], strides[row + 1]};
      tile.blocks->scales = scales;
      tile.blocks->scale_strides = {target.scale_strides[row], target.scale_strides[row + 1]};
      tile.blocks->repeats = grid_of(copy).repeats();
      if (row == 0) continue;  // one matrix
      destination += strides[0] * byte_size(tile.to);
      scales += target.scale_strides[0] * scale_bytes;
    }
    return tiles;
  }

  /// Returns the tile that forwards the scales of a box that this rank has received.
  kernels::Tile scales_tile(const plan::Copy& copy, const Box& box, std::size_t peer, const Target& target) const {
    const layout::Place place = scales_of(copy, box);
    const DType dtype = scale_dtype(sends_.quantise->quantiser());
    return {me_.destination.address(place, dtype),
            scales_at(copy, box, peer, target),
            grid_of(copy).touched(box).extent,
            place.strides,
            target.scale_strides,
            dtype,
            dtype};
  }

  /// Appends the tiles of a relayed or forwarded copy, chunk by chunk. A relayed copy raises a flag of the relay behind
  /// each chunk; the forwarded copy of the chunk waits for it.
  void append_chunks(const plan::Copy& copy, std::size_t peer, const Target& target, std::int64_t flag,
                     std::vector<kernels::Tile>& tiles) const {
    for (const Box& part : fan_out_chunks(copy, tuning_)) {
      if (copy.fan_out == plan::FanOut::relayed) {
        auto* signal = reinterpret_cast<std::uint64_t*>(flags_->at(static_cast<int>(peer), flag));
        add_tiles(copy, part, peer, target, nullptr, signal, tiles);
      } else {
        const auto* wait = reinterpret_cast<const std::uint64_t*>(flags_->local() + flag);
        add_tiles(copy, part, peer, target, wait, nullptr, tiles);
      }
      flag += kFlagBytes;
    }
  }

  const kernels::ExecutionSpace& space_;
  const Endpoint me_;
  const WorldMap map_;
  PeerMemory& peers_;
  std::unique_ptr<PeerMemory> flags_;  ///< of fan-out
  Control& world_;
  Progress& progress_;
  const Tuning tuning_;
  const QuantisedSends sends_;
  const std::vector<std::uint64_t> devices_;  ///< by world rank
  kernels::EngineTable engines_;
  kernels::CopyTable across_;  ///< to other devices, beside engines
  kernels::CopyTable table_;   ///< what stays; all copies where engines have none
  /// Forwarded copies, which wait for others' copies: they come last, or ranks that do both could wait in a circle.
  kernels::CopyTable forwards_;
  /// Forwarded copies of what comes as messages, by tensor, until the executor of these is made.
  struct Relayed {
    plan::Copy copy;
    std::size_t peer;
    Target target;
  };
  std::map<std::int32_t, std::vector<Relayed>> relayed_;
  std::uint64_t epoch_ = 0;
  std::unique_ptr<Executor> fallback_;
  std::size_t unmapped_peers_ = 0;
  std::chrono::duration<double> enqueue_{0};
};

}  // namespace

std::vector<Box> fan_out_chunks(const plan::Copy& copy, const Tuning& tuning) {
  std::vector<Box> chunks;
  append_cut(copy.box, tuning.fan_out_chunk_bytes / byte_size(copy.destination.format.dtype), chunks);
  return chunks;
}

std::int64_t fan_out_flag_bytes(const std::vector<plan::Copy>& copies, const OwnRanks& own, const Tuning& tuning) {
  std::int64_t chunks = 0;
  for (const plan::Copy& copy : copies) {
    if (copy.fan_out == plan::FanOut::relayed && plan::receives(own, copy))
      chunks += std::ssize(fan_out_chunks(copy, tuning));
  }
  return kFlagBytes * chunks;
}

std::unique_ptr<Executor> make_direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const std::vector<plan::Copy>& copies,
                                      PeerMemory& peers, std::unique_ptr<PeerMemory> flags, Control& world,
                                      const WorldMap& map, const Tuning& tuning, Progress& progress,
                                      const QuantisedSends& sends) {
  return std::make_unique<Direct>(space, routes, me, tensors, copies, peers, std::move(flags), world, map, tuning,
                                  progress, sends);
}

}  // namespace refit::transport
