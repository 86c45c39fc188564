#include <map>

#include "core/box.hpp"
#include "core/clock.hpp"
#include "kernels/memory.hpp"
#include "transport/m2n/m2n.hpp"
#include "transport/turns.hpp"

namespace refit::transport {
namespace {

using plan::Mesh;
using plan::Reshard;

/// One shard between a rank's storages and the operation's memory.
class Shard {
 public:
  /// Makes the shard of `rank`, in the tensors of `reshard`, which it stores by `layout` in `memory`.
  Shard(const Reshard& reshard, const Mesh& mesh, const std::map<std::int32_t, const model::Tensor*>& tensors,
        const plan::Layout& layout, Rank rank, const LocalMemory& memory)
      : box_(mesh.box(rank)), size_(byte_size(reshard.dtype)) {
    const Extents strides = row_major_strides(box_.extent);
    const std::int64_t begin = reshard.stacked ? box_.lower[0] : 0;
    const std::int64_t count = reshard.stacked ? box_.extent[0] : 1;
    for (std::int64_t i = 0; i < count; ++i) {
      std::vector<layout::Piece> pieces;
      layout.pieces(*tensors.at(reshard.tensors[static_cast<std::size_t>(begin + i)]), rank, pieces);
      for (const layout::Piece& piece : pieces) {
        Extents index = piece.box.lower;
        Extents inner;  // strides of the shard, of the tensor's dimensions
        for (int d = 0; d < index.size(); ++d) {
          const int of = d + (reshard.stacked ? 1 : 0);
          index[d] -= box_.lower[of];
          inner.push_back(strides[of]);
        }
        const std::int64_t offset = (reshard.stacked ? i * strides[0] : 0) + offset_of(index, inner);
        parts_.push_back({memory.address(piece.place, piece.format.dtype), offset * size_, piece.box.extent,
                          piece.place.strides, inner, piece.format.dtype});
      }
    }
  }

  std::int64_t bytes() const { return box_.volume() * size_; }

  /// Returns the shard itself where it lies in the storages as the operation needs it; else nullptr.
  std::byte* in_place() const {
    std::byte* const begin = parts_.front().address - parts_.front().offset;
    for (const Part& part : parts_) {
      if (part.address - part.offset != begin) return nullptr;
      for (int d = 0; d < part.extent.size(); ++d)
        if (part.extent[d] > 1 && part.strides[d] != part.inner[d]) return nullptr;
    }
    return begin;
  }

  void append_pack(std::byte* staging, std::vector<kernels::Tile>& out) const {
    for (const Part& part : parts_)
      out.push_back(
          {part.address, staging + part.offset, part.extent, part.strides, part.inner, part.dtype, part.dtype});
  }
  void append_place(const std::byte* staging, std::vector<kernels::Tile>& out) const {
    for (const Part& part : parts_)
      out.push_back(
          {staging + part.offset, part.address, part.extent, part.inner, part.strides, part.dtype, part.dtype});
  }

 private:
  struct Part {
    std::byte* address;   // in a storage
    std::int64_t offset;  // in the shard, in bytes
    Extents extent;
    Extents strides;  // in the storage
    Extents inner;    // in the shard
    DType dtype;
  };

  Box box_;
  std::int64_t size_;
  std::vector<Part> parts_;
};

/// The part of this rank in one group.
struct Group {
  std::int32_t stage = 0;
  std::int32_t first_tensor = 0;
  std::int64_t bytes = 0;  ///< of this rank's shards
  std::vector<ReshardCall> calls;
  kernels::CopyTable pack;   // storages -> staging, before the group
  kernels::CopyTable place;  // staging -> storages, after it
};

/// Returns the operations of each group, and the groups in the order in which all ranks start them: stages take turns.
std::vector<std::vector<const Reshard*>> all_groups(const plan::Resharding& resharding, const plan::Layout& source,
                                                    const Tuning& tuning) {
  std::vector<std::vector<std::vector<const Reshard*>>> by_stage(static_cast<std::size_t>(source.stages()));
  std::vector<std::int64_t> used(by_stage.size(), 0);
  for (const Reshard& reshard : resharding.operations) {
    const auto stage = static_cast<std::size_t>(source.stage(reshard.source.first));
    // Every rank must cut groups alike, whether its shard is staged or not.
    const std::int64_t elements = std::max(product(reshard.source.shard), product(reshard.destination.shard));
    const std::int64_t bytes = round_up(elements * byte_size(reshard.dtype), kStorageAlignment);
    auto& groups = by_stage[stage];
    if (groups.empty() || std::ssize(groups.back()) >= tuning.group_size ||
        used[stage] + bytes > tuning.reshard_group_bytes) {
      groups.emplace_back();
      used[stage] = 0;
    }
    groups.back().push_back(&reshard);
    used[stage] += bytes;
  }
  return in_turns(std::move(by_stage), tuning.streams);
}

ReshardCall::End end_of(const Reshard& reshard, const Mesh& mesh, int first) {
  ReshardCall::End end;
  end.first = first;
  end.axes = static_cast<int>(mesh.axes.size());
  for (std::size_t i = 0; i < mesh.axes.size(); ++i) {
    end.ranks[i] = mesh.axes[i].ranks;
    end.placements[i] = mesh.axes[i].placement;
  }
  for (int d = 0; d < reshard.shape.size(); ++d)
    end.shard[static_cast<std::size_t>(d)] = static_cast<std::size_t>(mesh.shard[d]);
  return end;
}

ReshardCall call_of(const Reshard& reshard, const Routes& routes) {
  return {end_of(reshard, reshard.source, routes.source_peer(reshard.source.first)),
          end_of(reshard, reshard.destination,
                 routes.destination_peer(reshard.destination.first, routes.stage(reshard.source.first))),
          reshard.shape.size(), static_cast<int>(byte_size(reshard.dtype))};
}

class M2n final : public Executor {
 public:
  M2n(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
      const std::vector<model::Tensor>& tensors, const plan::Resharding& resharding, const plan::Layout& source,
      const plan::Layout& destination, std::unique_ptr<Executor> p2p, std::unique_ptr<Resharder> resharder,
      const Tuning& tuning, Progress& progress)
      : space_(space),
        progress_(progress),
        sizes_(tuning.table),
        resharder_(std::move(resharder)),
        p2p_(std::move(p2p)) {
    std::map<std::int32_t, const model::Tensor*> by_index;
    for (const model::Tensor& tensor : tensors) by_index[tensor.index] = &tensor;
    REFIT_ASSERT(!routes.map().colocated);
    const Side side = me.self.source ? Side::source : Side::destination;
    const Rank rank = *me.self.of(side);
    const plan::Layout& layout = side == Side::source ? source : destination;
    const LocalMemory& memory = side == Side::source ? me.source : me.destination;

    std::vector<std::vector<std::optional<Shard>>> shards;  // by group
    std::int64_t slot_bytes = 0;
    for (const auto& operations : all_groups(resharding, source, tuning)) {
      Group group;
      group.stage = source.stage(operations.front()->source.first);
      group.first_tensor = operations.front()->tensors.front();
      if (routes.find(group.stage) == nullptr) continue;
      std::int64_t staged = 0;
      shards.emplace_back();
      for (const Reshard* reshard : operations) {
        ReshardCall& call = group.calls.emplace_back(call_of(*reshard, routes));
        std::optional<Shard>& shard = shards.back().emplace_back();
        const Mesh& mesh = side == Side::source ? reshard->source : reshard->destination;
        if (!mesh.has(rank)) continue;
        shard.emplace(*reshard, mesh, by_index, layout, rank, memory);
        call.end(side).data = shard->in_place();
        group.bytes += shard->bytes();
        if (shard->in_place() == nullptr) staged += round_up(shard->bytes(), kStorageAlignment);
      }
      slot_bytes = std::max(slot_bytes, staged);
      groups_.push_back(std::move(group));
    }

    slots_ = std::min(2 * static_cast<std::size_t>(tuning.streams), std::max<std::size_t>(1, groups_.size()));
    staging_ = kernels::DeviceBuffer(slot_bytes * static_cast<std::int64_t>(slots_));
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      stage(side, shards[i], staging_.data() + static_cast<std::int64_t>(i % slots_) * slot_bytes, groups_[i]);
    }
    for (std::size_t i = 0; i < slots_; ++i) requests_.push_back(resharder_->make_request());
  }

  void execute() override {
    const double start = now();
    std::size_t completed = 0;
    for (std::size_t started = 0; started < groups_.size(); ++started) {
      if (started - completed == slots_) complete(completed++);
      Group& group = groups_[started];
      show(group);
      {
        const Stepping packing(progress_.trace(), Step::pack, group.pack.bytes_written(), group.first_tensor);
        group.pack.run(space_);
        space_.fence();
      }
      traced_.post(progress_.trace(), started % slots_, group.bytes, group.first_tensor, -1);
      resharder_->post(group.calls, group.stage, *requests_[started % slots_]);
    }
    while (completed < groups_.size()) complete(completed++);
    const double middle = now();
    p2p_->execute();
    operations_seconds_ = middle - start;
    leftovers_seconds_ = now() - middle;
  }

  /// Of what goes by p2p alone: the library has connections of its own.
  void connect() override { p2p_->connect(); }

  MemoryList staging() const override {
    MemoryList all = p2p_->staging();
    all.push_back(staging_.span());
    return all;
  }

  Schedule schedule() const override {
    Schedule schedule;
    schedule.groups = std::ssize(groups_);
    for (const Group& group : groups_) schedule.operations = std::max(schedule.operations, std::ssize(group.calls));
    const auto slots = static_cast<std::int64_t>(slots_);
    schedule.serial_groups = ceil_div(schedule.groups, slots);
    return schedule + p2p_->schedule();
  }

  std::vector<Statistic> statistics() const override {
    return {{"m2n", Statistic::Unit::part, operations_seconds_},
            {"p2p", Statistic::Unit::part, leftovers_seconds_},
            {"library", Statistic::Unit::bytes, static_cast<double>(resharder_->own_bytes())}};
  }

 private:
  /// Gives the shards that are not in place their part of `slot`.
  void stage(Side side, const std::vector<std::optional<Shard>>& shards, std::byte* slot, Group& group) const {
    std::vector<kernels::Tile> tiles;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      std::byte*& data = group.calls[i].end(side).data;
      if (!shards[i] || data != nullptr) continue;
      data = slot;
      side == Side::source ? shards[i]->append_pack(slot, tiles) : shards[i]->append_place(slot, tiles);
      slot += round_up(shards[i]->bytes(), kStorageAlignment);
    }
    (side == Side::source ? group.pack : group.place) = kernels::CopyTable(space_, tiles, sizes_);
  }

  void show(const Group& group) {
    progress_.stage = group.stage;
    progress_.tensor = group.first_tensor;
    progress_.peer = -1;
  }

  void complete(std::size_t index) {
    Group& group = groups_[index];
    show(group);
    progress_.set_waiting(true);
    transport::complete(*requests_[index % slots_]);
    progress_.set_waiting(false);
    traced_.complete(progress_.trace(), index % slots_);
    const Stepping placing(progress_.trace(), Step::unpack, group.place.bytes_written(), group.first_tensor);
    group.place.run(space_);
    space_.fence();
  }

  const kernels::ExecutionSpace& space_;
  Progress& progress_;
  kernels::TableSizes sizes_;
  std::size_t slots_ = 1;
  kernels::DeviceBuffer staging_;
  std::vector<Group> groups_;
  std::unique_ptr<Resharder> resharder_;
  std::vector<std::unique_ptr<Request>> requests_;
  TracedMessages traced_;
  std::unique_ptr<Executor> p2p_;
  double operations_seconds_ = 0;
  double leftovers_seconds_ = 0;
};

std::vector<plan::Copy> copies_of_leftovers(const plan::Resharding& resharding, const std::vector<plan::Copy>& copies) {
  const std::set<std::int32_t> left = resharding.left();
  std::vector<plan::Copy> result;
  for (const plan::Copy& copy : copies)
    if (left.contains(copy.tensor)) result.push_back(copy);
  return result;
}

}  // namespace

std::unique_ptr<Executor> make_m2n(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<model::Tensor>& tensors, const plan::Resharding& resharding,
                                   const plan::Layout& source, const plan::Layout& destination,
                                   const std::vector<plan::Copy>& copies, std::unique_ptr<Resharder> resharder,
                                   const Tuning& tuning, Progress& progress) {
  auto p2p = make_p2p(space, routes, me, copies_of_leftovers(resharding, copies), tuning, progress);
  return std::make_unique<M2n>(space, routes, me, tensors, resharding, source, destination, std::move(p2p),
                               std::move(resharder), tuning, progress);
}

}  // namespace refit::transport
