#pragma once
// Threads of a host that share the items of a kernel.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace refit::kernels {

/// Adds to a number of several threads. Kokkos' own atomics are none where it is built for one thread.
template <typename T>
void add_on_host(T* number, T value) {
  std::atomic_ref<T>(*number).fetch_add(value, std::memory_order_relaxed);
}

/// Raises a number of several threads to a value, if that is larger.
template <typename T>
void raise_on_host(T* number, T value) {
  const std::atomic_ref<T> shared(*number);
  T found = shared.load(std::memory_order_relaxed);
  while (found < value && !shared.compare_exchange_weak(found, value, std::memory_order_relaxed)) {
  }
}

/// The calling thread and some more, which sleep between kernels. They have the affinity of the thread that runs the
/// first kernel.
class ThreadTeam {
 public:
  explicit ThreadTeam(std::int64_t threads) : threads_(threads) {}
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// Calls call(functor, item) for items 0 .. items - 1, each on one of the threads, which take them in this order;
  /// complete on return. One thread at a time may run, and calls must not throw. A thread that wakes when all items are
  /// taken is not waited for.
  void run(std::int64_t items, void (*call)(const void*, std::int64_t), const void* functor);

 private:
  struct Task {
    std::int64_t items;
    void (*call)(const void*, std::int64_t);
    const void* functor;
    std::atomic<std::int64_t> next{0};

    void work() {
      for (std::int64_t i = next++; i < items; i = next++) call(functor, i);
    }
  };
  void start();
  void serve();

  std::int64_t threads_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable begins_, ends_;
  Task* task_ = nullptr;     ///< that workers may join
  std::uint64_t round_ = 0;  ///< of the task
  std::int64_t working_ = 0;
  bool stops_ = false;
};

}  // namespace refit::kernels
