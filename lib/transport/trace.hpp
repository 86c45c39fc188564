#pragma once
// What a rank does in one refit, step by step: the times of its phases, kernels, copy engines, staging, messages and
// waits, as executors go through them.
//
// Progress has the trace of its rank, where one is asked for: executors write to it there, and nothing is written
// outside start() .. finish().

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/marks.hpp"

namespace refit::transport {

/// Returns nanoseconds of the machine's monotonic clock, which all its processes have in common.
inline std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Kinds of steps. Those of one kind are one after the other on a rank, but for messages.
enum class Step : std::uint8_t {
  kernel,   ///< copies between storages, of this rank or into another's
  engine,   ///< copy engines do likewise
  pack,     ///< storages -> staging
  unpack,   ///< staging -> storages
  message,  ///< a group of messages or a broadcast, from its post until it is complete at this end
  wait      ///< the host's thread waits for other ranks
};

struct TracedStep {
  std::int64_t begin_ns = 0, end_ns = 0;
  std::int64_t bytes = 0;    ///< that are written, sent or received; 0: none
  std::int32_t tensor = -1;  ///< first of the model's; -1: none, or many
  std::int32_t peer = -1;    ///< of the first message, in its communicator
  Step step = Step::kernel;
};

struct TracedPhase {
  std::string name;
  std::int64_t begin_ns = 0, end_ns = 0;
};

class Trace {
 public:
  /// `most`: steps that are kept of a refit; those behind are counted alone.
  explicit Trace(std::int64_t most);

  /// Prepares for a part of a refit, before its barrier: waits for `space`.
  void prepare(const kernels::ExecutionSpace& space) { marks_.start(space); }
  /// Begins this part, behind the barrier.
  void start() { on_ = true; }
  /// Ends it: all work on the space must be complete.
  void finish();

  void add(const TracedStep& step);
  /// Adds a phase by the seconds of core/clock.hpp's now.
  void add_phase(const char* name, double begin, double end);
  /// Says that the host's thread waits for other ranks from now on, or no longer.
  void set_waiting(bool waiting);

  /// Notes an instant of work that is enqueued (kernels/marks.hpp).
  template <typename Queue>
  int after(const Queue& queue) {
    return on_ ? marks_.after(queue) : 0;
  }
  /// Adds what is enqueued between two instants, unless it has no bytes.
  void add(Step step, int begin, int end, std::int64_t bytes);

  const std::vector<TracedStep>& steps() const { return steps_; }
  const std::vector<TracedPhase>& phases() const { return phases_; }
  /// Returns the steps that found no room.
  std::int64_t left_out() const { return left_out_; }

 private:
  struct Enqueued {
    Step step;
    int begin, end;
    std::int64_t bytes;
  };

  std::size_t most_;
  bool on_ = false;
  std::int64_t waits_since_ = 0;  ///< 0: it does not
  std::int64_t left_out_ = 0;
  kernels::Marks marks_;
  std::vector<TracedStep> steps_;
  std::vector<TracedPhase> phases_;
  std::vector<Enqueued> enqueued_;
};

/// Enqueues work on a space, as a step of `bytes` bytes. `trace`: nullptr: nothing is noted.
template <typename Enqueue>
void enqueue_traced(Trace* trace, const kernels::ExecutionSpace& space, Step step, std::int64_t bytes,
                    const Enqueue& enqueue) {
  if (trace == nullptr || bytes == 0) return enqueue();
  const int begin = trace->after(space);
  enqueue();
  trace->add(step, begin, trace->after(space), bytes);
}

/// The messages of an executor's requests, each from its post on.
class TracedMessages {
 public:
  /// `slot`: number of the request. `trace`: nullptr: nothing is noted.
  void post(Trace* trace, std::size_t slot, std::int64_t bytes, std::int32_t tensor, std::int32_t peer) {
    if (trace == nullptr) return;
    if (slot >= posted_.size()) posted_.resize(slot + 1);
    posted_[slot] = {now_ns(), 0, bytes, tensor, peer, Step::message};
  }
  void complete(Trace* trace, std::size_t slot) {
    if (trace == nullptr) return;
    posted_[slot].end_ns = now_ns();
    trace->add(posted_[slot]);
  }

 private:
  std::vector<TracedStep> posted_;
};

/// A step of the host's thread: from its making until it ends.
class Stepping {
 public:
  /// `trace`: nullptr: nothing is noted.
  Stepping(Trace* trace, Step step, std::int64_t bytes, std::int32_t tensor = -1)
      : trace_(bytes == 0 ? nullptr : trace), noted_{trace_ == nullptr ? 0 : now_ns(), 0, bytes, tensor, -1, step} {}
  ~Stepping() {
    if (trace_ == nullptr) return;
    noted_.end_ns = now_ns();
    trace_->add(noted_);
  }
  Stepping(const Stepping&) = delete;
  Stepping& operator=(const Stepping&) = delete;

 private:
  Trace* trace_;
  TracedStep noted_;
};

}  // namespace refit::transport
