#include "support/thread_communicator.hpp"

#include <atomic>
#include <cstring>
#include <thread>

#include "core/error.hpp"
#include "support/thread_control.hpp"

namespace refit::test_support {
namespace {

/// Several groups may share one request only one after the other. A request asks the hub to which its group was posted;
/// this need not be that of the communicator that made the request.
class ThreadRequest final : public transport::Request {
 public:
  explicit ThreadRequest(std::int64_t capacity) : capacity_(capacity) {}

  bool test() override {
    check_other_ranks();
    if (hub_ && !hub_->done(operations_)) {
      std::this_thread::yield();
      return false;
    }
    operations_.clear();
    return true;
  }

  void start(std::shared_ptr<ThreadSwitch> hub, std::size_t operations) {
    if (!operations_.empty()) fail_runtime("a request is used again before its operations are complete");
    if (static_cast<std::int64_t>(operations) > capacity_) {
      fail_runtime("a group of {} messages in a request for {}", operations, capacity_);
    }
    hub_ = std::move(hub);
  }
  void add(ThreadSwitch::OperationPointer operation) { operations_.push_back(std::move(operation)); }

 private:
  std::shared_ptr<ThreadSwitch> hub_;
  std::int64_t capacity_;
  std::vector<ThreadSwitch::OperationPointer> operations_;
};

void deliver(const ThreadSwitch::Operation& from, ThreadSwitch::Operation& to) {
  if (from.bytes > 0) std::memcpy(to.data, from.data, static_cast<std::size_t>(from.bytes));
  to.done = true;
}

}  // namespace

ThreadSwitch::ThreadSwitch(int size, int lanes)
    : lanes_(lanes), broadcasts_posted_(static_cast<std::size_t>(size), 0) {}

ThreadSwitch::OperationPointer ThreadSwitch::post(int rank, const transport::Message& message, int lane) {
  if (lane < 0 || lane >= lanes_) fail_runtime("lane {} of {}", lane, lanes_);
  if (message.peer < 0 || message.peer >= size()) fail_runtime("peer {} of {} ranks", message.peer, size());
  auto operation = std::make_shared<Operation>(Operation{message.data, message.bytes, false, {}});
  const std::lock_guard lock(mutex_);
  const bool sends = message.kind == transport::Message::Kind::send;
  Queue& queue = sends ? queues_[{rank, message.peer, lane}] : queues_[{message.peer, rank, lane}];
  (sends ? queue.sends : queue.receives).push_back(operation);
  match(queue);
  return operation;
}

void ThreadSwitch::match(Queue& queue) {
  while (!queue.sends.empty() && !queue.receives.empty()) {
    Operation& send = *queue.sends.front();
    Operation& receive = *queue.receives.front();
    if (send.bytes == receive.bytes) {
      deliver(send, receive);
      send.done = true;
    } else {
      send.error = fmt::format("a send of {} bytes meets a receive of {}", send.bytes, receive.bytes);
      receive.error = send.error;
    }
    queue.sends.pop_front();
    queue.receives.pop_front();
  }
}

ThreadSwitch::OperationPointer ThreadSwitch::broadcast(int rank, std::byte* data, std::int64_t bytes, int root) {
  auto operation = std::make_shared<Operation>(Operation{data, bytes, false, {}});
  const std::lock_guard lock(mutex_);
  const std::int64_t number = broadcasts_posted_[static_cast<std::size_t>(rank)]++;
  Broadcast& entry = broadcasts_[number];
  if (entry.posted++ == 0) entry.root = root;
  if (entry.root != root)
    fail_runtime("broadcast {} has root {} on rank {}, {} elsewhere", number, root, rank, entry.root);
  if (rank == root) {
    entry.source = operation;
  } else {
    entry.receivers.push_back(operation);
  }
  advance(entry);
  if (entry.posted == size()) broadcasts_.erase(number);
  return operation;
}

void ThreadSwitch::advance(Broadcast& entry) {
  if (!entry.source) return;
  for (const OperationPointer& receiver : entry.receivers) {
    if (receiver->done) continue;
    if (receiver->bytes == entry.source->bytes) {
      deliver(*entry.source, *receiver);
    } else {
      receiver->error = fmt::format("a broadcast of {} bytes is received as {}", entry.source->bytes, receiver->bytes);
      entry.source->error = receiver->error;
    }
  }
  entry.source->done = entry.posted == size();
}

bool ThreadSwitch::done(const std::vector<OperationPointer>& operations) {
  const std::lock_guard lock(mutex_);
  bool all = true;
  for (const OperationPointer& operation : operations) {
    if (!operation->error.empty()) fail_runtime("{}", operation->error);
    all = all && operation->done;
  }
  return all;
}

std::unique_ptr<transport::Request> ThreadCommunicator::make_request(std::int64_t capacity) {
  return std::make_unique<ThreadRequest>(capacity);
}

void ThreadCommunicator::post(std::span<const transport::Message> group, int lane, transport::Request& request) {
  auto& mine = dynamic_cast<ThreadRequest&>(request);
  mine.start(hub_, group.size());
  for (const transport::Message& message : group) mine.add(hub_->post(rank_, message, lane));
}

void ThreadCommunicator::broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) {
  auto& mine = dynamic_cast<ThreadRequest&>(request);
  mine.start(hub_, 1);
  mine.add(hub_->broadcast(rank_, data, bytes, root));
}

std::byte* ThreadPeerMemory::map(int rank) const {
  const std::pair<int, int> pair = rank < rank_ ? std::pair{rank, rank_} : std::pair{rank_, rank};
  return arenas_->unmapped.contains(pair) ? nullptr : arenas_->arenas[static_cast<std::size_t>(rank)];
}

void ThreadPeerMemory::fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace refit::test_support
