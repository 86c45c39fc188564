#pragma once
// Messages in batches, batch after batch on several lanes at a time: the loop of executors that have a ring.
//
// A batch is a group of messages of one stage and lane, with `pack` before it is posted and `unpack` once it is
// complete. Batches are in the same order at both ends of every pair: an order of all messages of a job, of which every
// rank has its own. The first message of all that is incomplete is then posted at both its ends, so something always
// completes.

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "transport/executor.hpp"

namespace refit::transport {

/// What all batches have.
struct BatchMessages {
  std::int32_t stage = 0;
  int lane = 0;  ///< of the stage's communicator
  std::int32_t first_tensor = 0;
  std::vector<Message> messages;
  std::int64_t packed_bytes = 0;    ///< that `pack` writes
  std::int64_t unpacked_bytes = 0;  ///< that `unpack` writes

  std::int64_t bytes() const {
    return std::transform_reduce(messages.begin(), messages.end(), std::int64_t{0}, std::plus(),
                                 [](const Message& message) { return message.bytes; });
  }
};

/// One stage in flight at a time, or a part of one: its batches, in order, with up to `ring` of them between pack and
/// unpack. `Batch` is a BatchMessages with pack(space) and unpack(space), which enqueue.
template <typename Batch>
class Lane {
 public:
  explicit Lane(std::int64_t ring) : ring_(static_cast<std::size_t>(ring)) {}

  std::vector<Batch>& batches() { return batches_; }
  const std::vector<Batch>& batches() const { return batches_; }

  /// Makes the requests of the batches that the lane has.
  void make_requests(const Routes& routes) {
    std::size_t largest = 0;
    for (const Batch& batch : batches_) largest = std::max(largest, batch.messages.size());
    if (batches_.empty()) return;
    make_requests(routes.communicator(batches_.front().stage), std::min(ring_, batches_.size()), largest);
  }
  /// Makes `count` requests of batches of up to `capacity` messages.
  void make_requests(Communicator& communicator, std::size_t count, std::size_t capacity) {
    for (std::size_t i = 0; i < count; ++i)
      requests_.push_back(communicator.make_request(static_cast<std::int64_t>(capacity)));
  }

  void add_to(Schedule& schedule) const {
    schedule.groups += std::ssize(batches_);
    schedule.serial_groups = std::max(schedule.serial_groups, std::int64_t{std::ssize(batches_)});
    for (const Batch& batch : batches_) {
      schedule.operations = std::max(schedule.operations, std::int64_t{std::ssize(batch.messages)});
    }
  }

  void start() { posted_ = completed_ = 0; }
  bool done() const { return completed_ == batches_.size(); }
  /// Gives the core away while the first batch that is not complete waits.
  void pause() { requests_[completed_ % requests_.size()]->pause(); }

  /// Posts and completes as many batches as possible; returns true if anything moved.
  bool advance(const kernels::ExecutionSpace& space, const Routes& routes, Progress& progress) {
    bool moved = false;
    while (posted_ < batches_.size() && posted_ < completed_ + requests_.size()) {
      Batch& batch = batches_[posted_];
      {
        const Stepping packing(progress.trace(), Step::pack, batch.packed_bytes, batch.first_tensor);
        batch.pack(space);
        space.fence();
      }
      const std::size_t slot = posted_ % requests_.size();
      if (progress.trace() != nullptr)
        traced_.post(progress.trace(), slot, batch.bytes(), batch.first_tensor, peer_of(batch));
      routes.communicator(batch.stage).post(batch.messages, batch.lane, *requests_[slot]);
      ++posted_;
      moved = true;
    }
    while (completed_ < posted_ && requests_[completed_ % requests_.size()]->test()) {
      progress.set_waiting(false);
      traced_.complete(progress.trace(), completed_ % requests_.size());
      const Batch& batch = batches_[completed_];
      const Stepping unpacking(progress.trace(), Step::unpack, batch.unpacked_bytes, batch.first_tensor);
      batch.unpack(space);
      space.fence();  // its chunk is free for the batch after next
      ++completed_;
      moved = true;
    }
    if (completed_ < batches_.size()) {
      const Batch& waiting = batches_[completed_];
      progress.stage = waiting.stage;
      progress.tensor = waiting.first_tensor;
      progress.peer = peer_of(waiting);
    }
    return moved;
  }

 private:
  static int peer_of(const Batch& batch) { return batch.messages.empty() ? -1 : batch.messages.front().peer; }

  std::size_t ring_;
  std::vector<Batch> batches_;
  std::vector<std::unique_ptr<Request>> requests_;
  TracedMessages traced_;
  std::size_t posted_ = 0;
  std::size_t completed_ = 0;
};

/// Carries out the batches of all lanes.
template <typename Batch>
void run(std::vector<Lane<Batch>>& lanes, const kernels::ExecutionSpace& space, const Routes& routes,
         Progress& progress) {
  for (Lane<Batch>& lane : lanes) lane.start();
  for (bool busy = true; busy;) {
    busy = false;
    bool moved = false;
    for (Lane<Batch>& lane : lanes) {
      if (lane.done()) continue;
      moved |= lane.advance(space, routes, progress);
      busy |= !lane.done();
    }
    progress.set_waiting(busy && !moved);
    if (busy && !moved) std::ranges::find_if(lanes, [](const Lane<Batch>& lane) { return !lane.done(); })->pause();
  }
}

/// A first message of a pair: the communicator of a stage, its lane, and ranks in it. Their order is one of all such
/// messages of a job.
struct Greeting {
  std::int32_t stage;
  int lane, from, to;
  auto operator<=>(const Greeting&) const = default;
};

/// Exchanges greetings, lane by lane: those in which this rank has a part. Groups have at most `group_size` messages.
void greet(const kernels::ExecutionSpace& space, const Routes& routes, const std::vector<std::set<Greeting>>& lanes,
           std::int64_t group_size, Progress& progress);

}  // namespace refit::transport
