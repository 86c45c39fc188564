#include "support/thread_control.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "core/error.hpp"

namespace refit::test_support {
namespace {

struct Run {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> returned;
  std::exception_ptr first_error;
  std::atomic<bool> failed = false;

  bool all_returned() const { return std::find(returned.begin(), returned.end(), false) == returned.end(); }
};

thread_local Run* current_run = nullptr;

void run_one(Run& run, int rank, const std::function<void(int)>& body) {
  current_run = &run;
  std::exception_ptr error;
  try {
    body(rank);
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(run.mutex);
  if (error && !run.first_error) run.first_error = error;
  if (error) run.failed = true;
  run.returned[static_cast<std::size_t>(rank)] = true;
  run.changed.notify_all();
}

[[noreturn]] void abort_late(const Run& run) {
  std::fprintf(stderr, "run_ranks: deadline passed; ranks that have not returned:");
  for (std::size_t rank = 0; rank < run.returned.size(); ++rank) {
    if (!run.returned[rank]) std::fprintf(stderr, " %zu", rank);
  }
  std::fprintf(stderr, "\n");
  std::abort();
}

/// An exchange that leaves all messages before it waits for any.
class ThreadExchange final : public transport::Exchange {
 public:
  ThreadExchange(std::shared_ptr<ThreadHub> hub, int rank, std::span<const transport::Message> messages)
      : hub_(std::move(hub)), rank_(rank), messages_(messages.begin(), messages.end()) {}

  void run() override {
    using Kind = transport::Message::Kind;
    for (const transport::Message& m : messages_)
      if (m.kind == Kind::send) hub_->leave(rank_, m.peer, {m.data, static_cast<std::size_t>(m.bytes)});
    for (const transport::Message& m : messages_)
      if (m.kind == Kind::receive) hub_->take(m.peer, rank_, {m.data, static_cast<std::size_t>(m.bytes)});
  }

 private:
  std::shared_ptr<ThreadHub> hub_;
  int rank_;
  std::vector<transport::Message> messages_;
};

template <typename T>
const T& at(const std::vector<const void*>& all, std::size_t rank) {
  return *static_cast<const T*>(all[rank]);
}

template <typename T, typename Combine>
T combine_all(ThreadHub& hub, int rank, const char* what, T value, const Combine& combine) {
  T result{};
  hub.meet(rank, what, &value, [&](const std::vector<const void*>& all) {
    result = at<T>(all, 0);
    for (std::size_t i = 1; i < all.size(); ++i) result = combine(result, at<T>(all, i));
  });
  return result;
}

}  // namespace

void run_ranks(int ranks, const std::function<void(int)>& body, std::chrono::seconds deadline) {
  Run run;
  run.returned.assign(static_cast<std::size_t>(ranks), false);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run_one, std::ref(run), rank, std::cref(body));
  {
    std::unique_lock lock(run.mutex);
    if (!run.changed.wait_for(lock, deadline, [&] { return run.all_returned(); })) abort_late(run);
  }
  for (std::thread& thread : threads) thread.join();
  if (run.first_error) std::rethrow_exception(run.first_error);
}

void check_other_ranks() {
  if (current_run != nullptr && current_run->failed) fail_runtime("another rank of this test has failed");
}

void ThreadHub::wait_for_all() {
  std::unique_lock lock(mutex_);
  const std::int64_t round = round_;
  if (++waiting_ == size()) {
    waiting_ = 0;
    ++round_;
    arrived_.notify_all();
    return;
  }
  while (!arrived_.wait_for(lock, std::chrono::milliseconds(5), [&] { return round_ != round; })) check_other_ranks();
}

void ThreadHub::meet(int rank, const char* what, const void* mine,
                     const std::function<void(const std::vector<const void*>&)>& read) {
  slots_[static_cast<std::size_t>(rank)] = {what, mine};
  wait_for_all();
  std::vector<const void*> all;
  bool same = true;
  for (const Slot& slot : slots_) {
    same = same && std::strcmp(slot.what, what) == 0;
    all.push_back(slot.data);
  }
  if (same) read(all);
  wait_for_all();
  if (!same) fail_runtime("rank {} is in {} while another rank is in another collective", rank, what);
}

std::shared_ptr<ThreadHub> ThreadHub::part(int color, int size) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<ThreadHub>& hub = parts_[color];
  if (!hub) hub = std::make_shared<ThreadHub>(size);
  return hub;
}

void ThreadHub::release_parts() {
  const std::lock_guard lock(mutex_);
  parts_.clear();
}

void ThreadHub::leave(int from, int to, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  mail_[{from, to}].emplace_back(bytes.begin(), bytes.end());
  arrived_.notify_all();
}

void ThreadHub::take(int from, int to, std::span<std::byte> bytes) {
  std::unique_lock lock(mutex_);
  auto& queue = mail_[{from, to}];
  while (!arrived_.wait_for(lock, std::chrono::milliseconds(5), [&] { return !queue.empty(); })) check_other_ranks();
  if (queue.front().size() != bytes.size())
    fail_runtime("rank {} sends {} bytes, and rank {} wants {}", from, queue.front().size(), to, bytes.size());
  std::copy(queue.front().begin(), queue.front().end(), bytes.begin());
  queue.pop_front();
}

void ThreadControl::barrier() {
  hub_->meet(rank_, "barrier", nullptr, [](const std::vector<const void*>&) {});
}

std::vector<ThreadControl::Bytes> ThreadControl::exchange(const std::vector<Bytes>& to) {
  if (to.size() != static_cast<std::size_t>(size())) fail_runtime("exchange needs one message per rank");
  std::vector<Bytes> result;
  hub_->meet(rank_, "exchange", &to, [&](const std::vector<const void*>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      result.push_back(at<std::vector<Bytes>>(all, i)[static_cast<std::size_t>(rank_)]);
    }
  });
  return result;
}

std::vector<ThreadControl::Bytes> ThreadControl::gather(const Bytes& mine, int root) {
  std::vector<Bytes> result;
  hub_->meet(rank_, "gather", &mine, [&](const std::vector<const void*>& all) {
    if (rank_ != root) return;
    for (std::size_t i = 0; i < all.size(); ++i) result.push_back(at<Bytes>(all, i));
  });
  return result;
}

ThreadControl::Bytes ThreadControl::broadcast(Bytes bytes, int root) {
  Bytes result;
  hub_->meet(rank_, "broadcast", &bytes,
             [&](const std::vector<const void*>& all) { result = at<Bytes>(all, static_cast<std::size_t>(root)); });
  return result;
}

void ThreadControl::reduce_sum(std::span<std::int64_t> values, int root) {
  using Values = std::span<std::int64_t>;
  std::vector<std::int64_t> result;
  bool same_size = true;
  hub_->meet(rank_, "reduce_sum", &values, [&](const std::vector<const void*>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) same_size &= at<Values>(all, i).size() == values.size();
    if (rank_ != root || !same_size) return;
    std::vector<std::uint64_t> sums(values.size(), 0);
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (std::size_t k = 0; k < sums.size(); ++k) sums[k] += static_cast<std::uint64_t>(at<Values>(all, i)[k]);
    }
    for (std::uint64_t sum : sums) result.push_back(static_cast<std::int64_t>(sum));
  });
  if (!same_size) fail_runtime("reduce_sum with {} values on rank {}, another number elsewhere", values.size(), rank_);
  std::copy(result.begin(), result.end(), values.begin());
}

void ThreadControl::max(std::span<std::uint32_t> values) {
  using Values = std::span<std::uint32_t>;
  std::vector<std::uint32_t> result(values.begin(), values.end());
  bool same_size = true;
  hub_->meet(rank_, "max of words", &values, [&](const std::vector<const void*>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Values& other = at<Values>(all, i);
      same_size &= other.size() == values.size();
      for (std::size_t k = 0; same_size && k < result.size(); ++k) result[k] = std::max(result[k], other[k]);
    }
  });
  if (!same_size) fail_runtime("max of {} values on rank {}, another number elsewhere", values.size(), rank_);
  std::copy(result.begin(), result.end(), values.begin());
}

double ThreadControl::max(double value) {
  return combine_all(*hub_, rank_, "max of doubles", value, [](double a, double b) { return std::max(a, b); });
}

std::int64_t ThreadControl::sum(std::int64_t value) {
  return combine_all(*hub_, rank_, "sum", value, [](std::int64_t a, std::int64_t b) { return a + b; });
}

std::int64_t ThreadControl::max(std::int64_t value) {
  return combine_all(*hub_, rank_, "max", value, [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
}

std::unique_ptr<transport::Exchange> ThreadControl::make_exchange(std::span<const transport::Message> messages) {
  return std::make_unique<ThreadExchange>(hub_, rank_, messages);
}

std::unique_ptr<transport::Control> ThreadControl::split(int color) {
  int part_size = 0;
  int part_rank = 0;
  hub_->meet(rank_, "split", &color, [&](const std::vector<const void*>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (at<int>(all, i) != color) continue;
      if (i < static_cast<std::size_t>(rank_)) ++part_rank;
      ++part_size;
    }
  });
  std::shared_ptr<ThreadHub> part = color < 0 ? nullptr : hub_->part(color, part_size);
  barrier();
  if (rank_ == 0) hub_->release_parts();
  barrier();
  if (!part) return nullptr;
  return std::make_unique<ThreadControl>(part, part_rank);
}

}  // namespace refit::test_support
