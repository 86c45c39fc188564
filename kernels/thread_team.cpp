#include "kernels/thread_team.hpp"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "core/error.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

std::int64_t usable_cores() {
  // A mask has as many bits as the machine may have processors, which are more than cpu_set_t's on some.
  for (int processors = CPU_SETSIZE; processors <= 1 << 20; processors *= 2) {
    cpu_set_t* mask = CPU_ALLOC(static_cast<std::size_t>(processors));
    if (mask == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(processors));
    const int cores = sched_getaffinity(0, bytes, mask) == 0 ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (cores > 0) return cores;
  }
  return std::max(1U, std::thread::hardware_concurrency());
}

ThreadTeam::~ThreadTeam() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  begins_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::start() {
  try {
    while (static_cast<std::int64_t>(workers_.size()) + 1 < threads_) workers_.emplace_back([this] { serve(); });
  } catch (const std::system_error& error) {
    fail_runtime("cannot start thread {} of {}: {}; use a smaller run.threads", workers_.size() + 2, threads_,
                 error.what());
  }
}

void ThreadTeam::serve() {
  std::unique_lock lock(mutex_);
  for (std::uint64_t seen = 0;;) {
    begins_.wait(lock, [&] { return stops_ || (task_ != nullptr && round_ != seen); });
    if (stops_) return;
    seen = round_;
    Task& task = *task_;
    ++working_;
    lock.unlock();
    task.work();
    lock.lock();
    if (--working_ == 0) ends_.notify_one();
  }
}

void ThreadTeam::run(std::int64_t items, void (*call)(const void*, std::int64_t), const void* functor) {
  start();
  Task task{items, call, functor};
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    ++round_;
  }
  begins_.notify_all();
  task.work();
  std::unique_lock lock(mutex_);
  task_ = nullptr;
  ends_.wait(lock, [this] { return working_ == 0; });
}

}  // namespace refit::kernels
