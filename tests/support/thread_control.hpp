#pragma once
// Ranks as threads of one process: run_ranks starts them, ThreadControl is their control plane.
//
// Example:
//   auto hub = std::make_shared<ThreadHub>(3);
//   run_ranks(3, [&](int rank) { ThreadControl world(hub, rank); EXPECT_EQ(world.sum(std::int64_t{1}), 3); });

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "transport/communicator.hpp"

namespace refit::test_support {

/// Calls `body(rank)` for ranks 0 .. ranks - 1, each in a thread of its own, and returns when all have returned. Once a
/// rank has thrown, the others leave their waits with an error of their own, so that none hangs; the first exception is
/// rethrown. After `deadline` it names the ranks that have not returned and aborts the process.
void run_ranks(int ranks, const std::function<void(int)>& body,
               std::chrono::seconds deadline = std::chrono::seconds(60));

/// Throws (runtime) when another rank of the same run_ranks has failed; every wait below calls it.
void check_other_ranks();

/// State that the ranks of one control plane share.
class ThreadHub {
 public:
  explicit ThreadHub(int size) : slots_(static_cast<std::size_t>(size)) {}
  int size() const { return static_cast<int>(slots_.size()); }

  /// Shows `mine` to all ranks, calls `read(all)`, and returns when all ranks have read. Throws (runtime) unless all
  /// ranks call with the same `what`.
  void meet(int rank, const char* what, const void* mine,
            const std::function<void(const std::vector<const void*>&)>& read);
  /// Returns the hub of one color of a split, which the first caller makes; `release` forgets all of them.
  std::shared_ptr<ThreadHub> part(int color, int size);
  void release_parts();

  /// Leaves a message for `to`, and takes the oldest one of `from`, which must have as many bytes.
  void leave(int from, int to, std::span<const std::byte> bytes);
  void take(int from, int to, std::span<std::byte> bytes);

 private:
  struct Slot {
    const char* what = "";
    const void* data = nullptr;
  };
  void wait_for_all();

  std::mutex mutex_;
  std::condition_variable arrived_;
  int waiting_ = 0;
  std::int64_t round_ = 0;
  std::vector<Slot> slots_;
  std::map<int, std::shared_ptr<ThreadHub>> parts_;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> mail_;  ///< by sender and receiver
};

/// One rank's end of the control plane of a hub.
class ThreadControl final : public transport::Control {
 public:
  ThreadControl(std::shared_ptr<ThreadHub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  void barrier() override;
  std::vector<Bytes> exchange(const std::vector<Bytes>& to) override;
  std::vector<Bytes> gather(const Bytes& mine, int root) override;
  Bytes broadcast(Bytes bytes, int root) override;
  void reduce_sum(std::span<std::int64_t> values, int root) override;
  void max(std::span<std::uint32_t> values) override;
  double max(double value) override;
  std::int64_t sum(std::int64_t value) override;
  std::int64_t max(std::int64_t value) override;
  std::unique_ptr<transport::Exchange> make_exchange(std::span<const transport::Message> messages) override;
  std::unique_ptr<transport::Control> split(int color) override;

 private:
  std::shared_ptr<ThreadHub> hub_;
  int rank_;
};

}  // namespace refit::test_support
