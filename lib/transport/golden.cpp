#include <algorithm>
#include <map>
#include <set>

#include "kernels/memory.hpp"
#include "plan/model.hpp"
#include "transport/executor.hpp"
#include "transport/tiles.hpp"
#include "transport/turns.hpp"

namespace refit::transport {
namespace {

/// One broadcast: a part of a source shard from its first holder.
struct Broadcast {
  std::int32_t tensor = 0;
  std::int32_t stage = 0;
  Rank holder{};
  Box box;
  Format format;
};

/// The part of this rank in one broadcast.
struct Step {
  Communicator* communicator = nullptr;
  std::int32_t tensor = 0;
  std::int32_t stage = 0;
  int root = 0;
  std::int64_t bytes = 0;
  kernels::CopyTable pack;   // at the root: storage -> staging
  kernels::CopyTable place;  // at destinations: staging -> storages
};

/// Appends the rows of a box, in parts of at most `part_bytes` (at least one row).
void append_parts(const Broadcast& whole, std::int64_t part_bytes, std::vector<Broadcast>& out) {
  const std::int64_t rows = whole.box.extent.size() == 0 ? 1 : whole.box.extent[0];
  const std::int64_t row_bytes =
      std::max<std::int64_t>(1, whole.box.volume() / std::max<std::int64_t>(1, rows) * byte_size(whole.format.dtype));
  const std::int64_t step = std::max<std::int64_t>(1, part_bytes / row_bytes);
  for (std::int64_t done = 0; done < rows; done += step) {
    Broadcast part = whole;
    if (part.box.extent.size() > 0) {
      part.box.lower[0] += done;
      part.box.extent[0] = std::min(step, rows - done);
    }
    out.push_back(part);
  }
}

/// Returns all broadcasts of a job in the order in which every rank starts them: `streams` stages take turns.
/// `colocated`: as plan::broadcasts has it.
std::vector<Broadcast> all_broadcasts(const std::vector<model::Tensor>& tensors, const plan::Layout& source,
                                      const plan::Layout* colocated, const Tuning& tuning) {
  std::vector<std::vector<Broadcast>> by_stage(static_cast<std::size_t>(source.stages()));
  for (const model::Tensor& tensor : tensors) {
    const auto wanted = colocated == nullptr ? std::vector<plan::Holding>() : plan::holdings(*colocated, tensor);
    for (const plan::Holding& holding : plan::holdings(source, tensor)) {
      if (colocated != nullptr && !plan::is_needed_elsewhere(holding, wanted)) continue;
      const Rank holder = holding.ranks.front();
      const std::int32_t stage = source.stage(holder);
      append_parts({tensor.index, stage, holder, holding.box, holding.format}, tuning.golden_part_bytes,
                   by_stage[static_cast<std::size_t>(stage)]);
    }
  }
  return in_turns(std::move(by_stage), tuning.streams);
}

class Golden final : public Executor {
 public:
  Golden(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
         const std::vector<model::Tensor>& tensors, const plan::Layout& source, const plan::Layout& destination,
         const Tuning& tuning, Progress& progress)
      : space_(space), progress_(progress), table_sizes_(tuning.table) {
    const std::vector<Broadcast> order =
        all_broadcasts(tensors, source, routes.map().colocated ? &destination : nullptr, tuning);
    std::int64_t largest = 0;
    for (const Broadcast& b : order) largest = std::max(largest, b.box.volume() * byte_size(b.format.dtype));
    slot_bytes_ = (largest + 63) / 64 * 64;
    slots_ = static_cast<std::size_t>(std::max<std::int64_t>(1, tuning.streams));
    staging_ = kernels::DeviceBuffer(slot_bytes_ * static_cast<std::int64_t>(slots_));

    std::map<std::int32_t, const model::Tensor*> by_index;
    for (const model::Tensor& tensor : tensors) by_index[tensor.index] = &tensor;
    for (const Broadcast& broadcast : order) {
      Communicator* communicator = routes.find(broadcast.stage);
      if (communicator == nullptr) continue;
      std::byte* slot = staging_.data() + static_cast<std::int64_t>(steps_.size() % slots_) * slot_bytes_;
      Step step{communicator,
                broadcast.tensor,
                broadcast.stage,
                routes.source_peer(broadcast.holder),
                broadcast.box.volume() * byte_size(broadcast.format.dtype),
                {},
                {}};
      const model::Tensor& tensor = *by_index.at(broadcast.tensor);
      if (me.self.source == broadcast.holder) step.pack = make_pack(me, tensor, source, broadcast, slot);
      if (me.self.destination && !holds(me, tensor, source, broadcast.box))
        step.place = make_place(me, tensor, destination, broadcast, slot);
      steps_.push_back(std::move(step));
    }
    if (me.self.source && me.self.destination) copy_to_self(me, tensors, source, destination);
    for (std::size_t i = 0; i < slots_ && !steps_.empty(); ++i)
      requests_.push_back(steps_.front().communicator->make_request(1));
  }

  void execute() override {
    enqueue_traced(progress_.trace(), space_, transport::Step::kernel, to_self_.bytes_written(),
                   [&] { to_self_.run(space_); });
    std::size_t completed = 0;
    for (std::size_t started = 0; started < steps_.size(); ++started) {
      if (started - completed == slots_) complete(completed++);
      Step& step = steps_[started];
      {
        const Stepping packing(progress_.trace(), transport::Step::pack, step.pack.bytes_written(), step.tensor);
        step.pack.run(space_);
        space_.fence();
      }
      traced_.post(progress_.trace(), started % slots_, step.bytes, step.tensor, step.root);
      step.communicator->broadcast(staging_.data() + static_cast<std::int64_t>(started % slots_) * slot_bytes_,
                                   step.bytes, step.root, *requests_[started % slots_]);
    }
    while (completed < steps_.size()) complete(completed++);
    space_.fence();
  }

  MemoryList staging() const override { return {staging_.span()}; }

  Schedule schedule() const override {
    const auto slots = static_cast<std::int64_t>(slots_);
    const std::int64_t broadcasts = std::ssize(steps_);
    return {broadcasts, std::min<std::int64_t>(1, broadcasts), ceil_div(broadcasts, slots)};
  }

 private:
  void complete(std::size_t index) {
    const Step& step = steps_[index];
    progress_.stage = step.stage;
    progress_.tensor = step.tensor;
    progress_.peer = step.root;
    progress_.set_waiting(true);
    transport::complete(*requests_[index % slots_]);
    progress_.set_waiting(false);
    traced_.complete(progress_.trace(), index % slots_);
    const Stepping placing(progress_.trace(), transport::Step::unpack, step.place.bytes_written(), step.tensor);
    step.place.run(space_);
    space_.fence();
  }

  kernels::CopyTable make_pack(const Endpoint& me, const model::Tensor& tensor, const plan::Layout& source,
                               const Broadcast& broadcast, std::byte* slot) const {
    std::vector<kernels::Tile> tiles;
    for_each_part(tensor, source, *me.self.source, broadcast.box, [&](const layout::Piece& piece, const Box& part) {
      if (!tiles.empty()) return;  // the box is stored twice on this rank (tied): once is enough
      tiles.push_back({me.source.address(place_of(piece, part), piece.format.dtype), slot, part.extent,
                       piece.place.strides, row_major_strides(part.extent), piece.format.dtype, piece.format.dtype});
    });
    return kernels::CopyTable(space_, tiles, table_sizes_);
  }

  kernels::CopyTable make_place(const Endpoint& me, const model::Tensor& tensor, const plan::Layout& destination,
                                const Broadcast& broadcast, std::byte* slot) const {
    std::vector<kernels::Tile> tiles;
    const Extents strides = row_major_strides(broadcast.box.extent);
    for_each_part(
        tensor, destination, *me.self.destination, broadcast.box, [&](const layout::Piece& piece, const Box& part) {
          const std::int64_t first =
              offset_of(relative(part, broadcast.box), strides) * byte_size(broadcast.format.dtype);
          tiles.push_back({slot + first, me.destination.address(place_of(piece, part), piece.format.dtype), part.extent,
                           strides, piece.place.strides, broadcast.format.dtype, piece.format.dtype,
                           transform(broadcast.format.conversion, piece.format.conversion)});
        });
    return kernels::CopyTable(space_, tiles, table_sizes_);
  }

  /// Returns whether this rank takes a shard, or a part of one, from itself.
  static bool holds(const Endpoint& me, const model::Tensor& tensor, const plan::Layout& source, const Box& box) {
    bool found = false;
    if (me.self.source)
      for_each_part(tensor, source, *me.self.source, box, [&](const layout::Piece&, const Box&) { found = true; });
    return found;
  }

  /// Makes the table of the copies from this rank's shards to its storages as a destination.
  void copy_to_self(const Endpoint& me, const std::vector<model::Tensor>& tensors, const plan::Layout& source,
                    const plan::Layout& destination) {
    std::vector<kernels::Tile> tiles;
    std::vector<layout::Piece> held;
    for (const model::Tensor& tensor : tensors) {
      held.clear();
      source.pieces(tensor, *me.self.source, held);
      std::set<Box> seen;  // a box that is stored twice on this rank (tied) is copied once
      for (const layout::Piece& shard : held) {
        if (!seen.insert(shard.box).second) continue;
        for_each_part(tensor, destination, *me.self.destination, shard.box,
                      [&](const layout::Piece& piece, const Box& part) {
                        const plan::Copy copy{tensor.index,
                                              part,
                                              {*me.self.source, place_of(shard, part), shard.format},
                                              {*me.self.destination, place_of(piece, part), piece.format}};
                        tiles.push_back(self_tile(copy, me.source, me.destination));
                      });
      }
    }
    to_self_ = kernels::CopyTable(space_, tiles, table_sizes_);
  }

  template <typename Visit>
  static void for_each_part(const model::Tensor& tensor, const plan::Layout& layout, Rank rank, const Box& box,
                            const Visit& visit) {
    std::vector<layout::Piece> pieces;
    layout.pieces(tensor, rank, pieces);
    for (const layout::Piece& piece : pieces) {
      if (const auto part = intersect(piece.box, box)) visit(piece, *part);
    }
  }

  const kernels::ExecutionSpace& space_;
  Progress& progress_;
  kernels::TableSizes table_sizes_;
  std::int64_t slot_bytes_ = 0;
  std::size_t slots_ = 1;
  kernels::DeviceBuffer staging_;
  kernels::CopyTable to_self_;
  std::vector<Step> steps_;
  std::vector<std::unique_ptr<Request>> requests_;
  TracedMessages traced_;
};

}  // namespace

std::unique_ptr<Executor> make_golden(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const plan::Layout& source,
                                      const plan::Layout& destination, const Tuning& tuning, Progress& progress) {
  return std::make_unique<Golden>(space, routes, me, tensors, source, destination, tuning, progress);
}

}  // namespace refit::transport
