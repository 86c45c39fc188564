#pragma once
// The data plane between ranks that are threads of one process, as strict as a real machine.
//
// Every message is a rendezvous: a send completes only when its matching receive has taken the bytes, so a wrong order
// of operations stops here as it would there (run_ranks' deadline then ends the test). Messages match in the order in
// which they were posted per (source, destination, lane); a matching pair of different sizes throws on both ranks.

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "transport/communicator.hpp"

namespace refit::test_support {

/// State that the ranks of one communicator share: the operations that wait for their other half.
class ThreadSwitch {
 public:
  explicit ThreadSwitch(int size, int lanes = 8);
  int size() const { return static_cast<int>(broadcasts_posted_.size()); }
  int lanes() const { return lanes_; }

  /// One operation of one rank; guarded by the switch's mutex.
  struct Operation {
    std::byte* data = nullptr;
    std::int64_t bytes = 0;
    bool done = false;
    std::string error;
  };
  using OperationPointer = std::shared_ptr<Operation>;

  OperationPointer post(int rank, const transport::Message& message, int lane);
  OperationPointer broadcast(int rank, std::byte* data, std::int64_t bytes, int root);
  /// Returns true once all operations are done. Throws (runtime) if one of them failed.
  bool done(const std::vector<OperationPointer>& operations);

 private:
  struct Queue {
    std::deque<OperationPointer> sends;
    std::deque<OperationPointer> receives;
  };
  struct Broadcast {
    int root = -1;
    int posted = 0;
    OperationPointer source;
    std::vector<OperationPointer> receivers;
  };
  void match(Queue& queue);
  void advance(Broadcast& broadcast);

  int lanes_;
  std::mutex mutex_;
  std::map<std::tuple<int, int, int>, Queue> queues_;  ///< by source, destination, lane
  std::vector<std::int64_t> broadcasts_posted_;        ///< by rank
  std::map<std::int64_t, Broadcast> broadcasts_;       ///< by number
};

/// One rank's end of a switch.
class ThreadCommunicator final : public transport::Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadSwitch> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  std::unique_ptr<transport::Request> make_request(std::int64_t capacity) override;
  void post(std::span<const transport::Message> group, int lane, transport::Request& request) override;
  void broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) override;

 private:
  std::shared_ptr<ThreadSwitch> hub_;
  int rank_;
};

/// The arenas of all ranks, and the pairs that cannot map each other's.
struct ThreadArenas {
  std::vector<std::byte*> arenas;          ///< by rank; nullptr = empty
  std::set<std::pair<int, int>> unmapped;  ///< (smaller rank, larger rank)

  void forbid(int a, int b) { unmapped.insert(a < b ? std::pair{a, b} : std::pair{b, a}); }
};

/// One rank's view of the arenas.
class ThreadPeerMemory final : public transport::PeerMemory {
 public:
  ThreadPeerMemory(std::shared_ptr<const ThreadArenas> arenas, int rank) : arenas_(std::move(arenas)), rank_(rank) {}

  std::byte* local() const override { return arenas_->arenas[static_cast<std::size_t>(rank_)]; }
  std::byte* map(int rank) const override;
  void fence() override;

 private:
  std::shared_ptr<const ThreadArenas> arenas_;
  int rank_;
};

}  // namespace refit::test_support
