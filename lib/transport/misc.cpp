#include <algorithm>
#include <array>

#include "core/box.hpp"
#include "kernels/memory.hpp"
#include "plan/stream.hpp"
#include "transport/p2p.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

/// Two buffers rotate: one is gathered or placed while the other is on its way.
constexpr std::size_t kBuffers = 2;

class MiscStream final : public Executor {
 public:
  MiscStream(const kernels::ExecutionSpace& space, Communicator* gather, Communicator* stream, const Endpoint& me,
             const std::vector<model::Tensor>& tensors, const plan::Layout& source, const plan::Layout& destination,
             const plan::Placement& placement, std::int64_t buffer_bytes, const Tuning& tuning, Progress& progress)
      : space_(space),
        stream_(stream),
        progress_(progress),
        sizes_(tuning.table),
        layout_(tensors, source, buffer_bytes),
        root_(me.self.source == Rank{0}) {
    if (stream_ != nullptr) allocate(tensors);
    if (me.self.source) make_gathers(*gather, me, tensors, source, placement, tuning);
    if (me.self.destination) make_places(me, tensors, destination);
  }

  void execute() override {
    const auto buffers = static_cast<std::size_t>(layout_.buffers());
    if (stream_ == nullptr) {
      for (auto& gather : gathers_) gather->execute();
      return;
    }
    // Buffer b travels while b + 1 is gathered and b - 1 has been placed: one broadcast in flight per buffer.
    for (std::size_t b = 0; b < buffers; ++b) {
      if (b >= kBuffers) complete(b - kBuffers);
      if (!gathers_.empty()) gathers_[b]->execute();
      progress_.stage = static_cast<std::int32_t>(b);
      progress_.tensor = first_tensor_[b];
      traced_.post(progress_.trace(), b % kBuffers, layout_.bytes(static_cast<std::int32_t>(b)), first_tensor_[b], 0);
      stream_->broadcast(slot(b), layout_.bytes(static_cast<std::int32_t>(b)), 0, *requests_[b % kBuffers]);
    }
    for (std::size_t b = buffers < kBuffers ? 0 : buffers - kBuffers; b < buffers; ++b) complete(b);
    space_.fence();
  }

  /// Of the gathers alone: communicators have broadcast before.
  void connect() override {
    for (auto& gather : gathers_) gather->connect();
  }

  MemoryList staging() const override {
    MemoryList memory{memory_.span()};
    if (ring_) memory.push_back(ring_->allocated());
    return memory;
  }

  Schedule schedule() const override {
    const std::int64_t broadcasts = stream_ == nullptr ? 0 : layout_.buffers();
    Schedule schedule{broadcasts, std::min<std::int64_t>(1, broadcasts), broadcasts};
    for (const auto& gather : gathers_) schedule = schedule + gather->schedule();
    return schedule;
  }

 private:
  std::byte* slot(std::size_t buffer) {
    return memory_.data() + static_cast<std::int64_t>(buffer % kBuffers) * slot_bytes_;
  }

  void allocate(const std::vector<model::Tensor>& tensors) {
    for (std::int32_t b = 0; b < layout_.buffers(); ++b)
      slot_bytes_ = std::max(slot_bytes_, round_up(layout_.bytes(b), kStorageAlignment));
    memory_ = kernels::DeviceBuffer(slot_bytes_ * std::min<std::int64_t>(kBuffers, layout_.buffers()));
    for (auto& request : requests_) request = stream_->make_request(1);
    first_tensor_.assign(static_cast<std::size_t>(layout_.buffers()), -1);
    for_each_piece(tensors, [&](const model::Tensor& tensor, const layout::Piece& piece) {
      auto& first = first_tensor_[static_cast<std::size_t>(piece.place.storage.parameter)];
      if (first < 0) first = tensor.index;
    });
  }

  template <typename Visit>
  void for_each_piece(const std::vector<model::Tensor>& tensors, const Visit& visit) const {
    std::vector<layout::Piece> pieces;
    for (const model::Tensor& tensor : tensors) {
      pieces.clear();
      layout_.pieces(tensor, Rank{0}, pieces);
      for (const layout::Piece& piece : pieces) visit(tensor, piece);
    }
  }

  /// Makes one p2p plan per buffer, from the source layout into the stream.
  void make_gathers(Communicator& gather, const Endpoint& me, const std::vector<model::Tensor>& tensors,
                    const plan::Layout& source, const plan::Placement& placement, const Tuning& tuning) {
    plan::Rules rules;
    if (!placement.source.empty()) rules.placement = {placement.source, {placement.source.front()}};
    const plan::Planner planner(tensors, source, layout_, rules);
    // Destination rank 0 of the stream is source rank 0.
    Endpoint end = me;
    end.self.destination = root_ ? std::optional(Rank{0}) : std::nullopt;
    std::vector<std::vector<plan::Copy>> by_buffer(static_cast<std::size_t>(layout_.buffers()));
    for (plan::Copy& copy : planner.rank_plan(end.self).copies) {
      copy.to_self = end.sends(copy) && end.receives(copy);
      by_buffer[static_cast<std::size_t>(copy.destination.place.storage.parameter)].push_back(copy);
    }

    stream_storages_ = layout::materialise(layout_, tensors, Rank{0});
    std::vector<std::byte*> addresses;
    for (const layout::Storage& storage : stream_storages_.storages) {
      addresses.push_back(root_ ? slot(static_cast<std::size_t>(storage.key.parameter)) : nullptr);
    }
    end.destination = LocalMemory(stream_storages_, addresses);
    const Routes routes(source, {&gather}, {source.ranks(), 1, true});
    // The gathers run one after the other: one ring, no larger than any of them needs, serves them all.
    const Tuning one = gather_tuning(tuning, source.stages(), layout_.capacity());
    std::int64_t largest = 0;
    for (const auto& copies : by_buffer) largest = std::max(largest, ring_bytes(routes, end, copies, one));
    ring_ = std::make_shared<Ring>(largest);
    for (const auto& copies : by_buffer) {
      gathers_.push_back(make_p2p(space_, routes, end, copies, one, ring_, progress_));
    }
  }

  /// Makes the tables from each buffer into this rank's storages, through its own pieces.
  void make_places(const Endpoint& me, const std::vector<model::Tensor>& tensors, const plan::Layout& destination) {
    std::vector<std::vector<kernels::Tile>> tiles(static_cast<std::size_t>(layout_.buffers()));
    std::vector<layout::Piece> wanted;
    for_each_piece(tensors, [&](const model::Tensor& tensor, const layout::Piece& part) {
      const auto buffer = static_cast<std::size_t>(part.place.storage.parameter);
      wanted.clear();
      destination.pieces(tensor, *me.self.destination, wanted);
      for (const layout::Piece& piece : wanted) {
        const auto box = intersect(part.box, piece.box);
        if (!box) continue;
        const std::byte* from = slot(buffer) + place_of(part, *box).offset * byte_size(part.format.dtype);
        tiles[buffer].push_back({from, me.destination.address(place_of(piece, *box), piece.format.dtype), box->extent,
                                 part.place.strides, piece.place.strides, part.format.dtype, piece.format.dtype,
                                 transform(part.format.conversion, piece.format.conversion)});
      }
    });
    for (const auto& table : tiles) places_.emplace_back(space_, table, sizes_);
  }

  void complete(std::size_t buffer) {
    progress_.set_waiting(true);
    transport::complete(*requests_[buffer % kBuffers]);
    progress_.set_waiting(false);
    traced_.complete(progress_.trace(), buffer % kBuffers);
    if (places_.empty()) return;
    const Stepping placing(progress_.trace(), Step::unpack, places_[buffer].bytes_written(), first_tensor_[buffer]);
    places_[buffer].run(space_);
    space_.fence();
  }

  const kernels::ExecutionSpace& space_;
  Communicator* stream_;
  Progress& progress_;
  kernels::TableSizes sizes_;
  plan::StreamLayout layout_;
  bool root_;
  std::int64_t slot_bytes_ = 0;
  kernels::DeviceBuffer memory_;
  std::vector<std::int32_t> first_tensor_;
  layout::LocalLayout stream_storages_;
  std::shared_ptr<Ring> ring_;                      // of the gathers
  std::vector<std::unique_ptr<Executor>> gathers_;  // by buffer; source ranks only
  std::vector<kernels::CopyTable> places_;          // by buffer; destination ranks only
  std::array<std::unique_ptr<Request>, kBuffers> requests_;
  TracedMessages traced_;
};

}  // namespace

Tuning gather_tuning(Tuning tuning, std::int64_t stages, std::int64_t capacity) {
  tuning.streams = std::min(tuning.streams, stages);
  tuning.chunk_bytes = std::min(tuning.chunk_bytes, round_up(capacity, kChunkAlignment));
  return tuning;
}

std::unique_ptr<Executor> make_misc(const kernels::ExecutionSpace& space, Communicator* gather, Communicator* stream,
                                    const Endpoint& me, const std::vector<model::Tensor>& tensors,
                                    const plan::Layout& source, const plan::Layout& destination,
                                    const plan::Placement& placement, std::int64_t buffer_bytes, const Tuning& tuning,
                                    Progress& progress) {
  return std::make_unique<MiscStream>(space, gather, stream, me, tensors, source, destination, placement, buffer_bytes,
                                      tuning, progress);
}

}  // namespace refit::transport
