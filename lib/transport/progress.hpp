#pragma once
// Progress of a rank, readable from outside while it works: by its supervisor's thread, by the other processes of its
// machine where the memory is shared, and by profilers.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/profile.hpp"
#include "transport/trace.hpp"

namespace refit::transport {

/// Present position of one rank in its work. Atomics only, so that it can lie in shared memory. -1 means none.
struct Where {
  static constexpr std::size_t kPhaseWords = 4;
  std::atomic<std::uint64_t> phase[kPhaseWords] = {};  ///< its name in characters, the rest zeros
  std::atomic<std::int32_t> stage{-1};
  std::atomic<std::int32_t> tensor{-1};      ///< index into the model's tensors
  std::atomic<std::int32_t> peer{-1};        ///< rank in the communicator in use
  std::atomic<bool> waiting{false};          ///< in a call that ends when other ranks have done their part
  std::atomic<bool> extends{false};          ///< the limit counts from the last move
  std::atomic<std::int64_t> collectives{0};  ///< of the whole job, entered so far: all ranks enter the same ones
  std::atomic<std::int64_t> item{-1};        ///< amount of the phase that is done, in the phase's unit
  std::atomic<std::int64_t> limit_ns{0};     ///< 0 = none
  std::atomic<std::int64_t> deadline_ns{0};  ///< of now_ns; 0 = none
};

/// Writer of a rank's position. Only the working thread calls it.
class Progress {
 public:
  /// `where` is memory that outlives this; nullptr: memory of this object.
  explicit Progress(Where* where = nullptr)
      : own_(where == nullptr ? std::make_unique<Where>() : nullptr), where_(where == nullptr ? *own_ : *where) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Begins the next phase, under the limit that runs; string literals of less than 32 characters.
  void at(const char* phase) {
    note(phase);
    profile_.begin(phase);
  }

  /// Begins the next phase, with `seconds` from now on; 0 or less = no limit. `extends`: each `moved` restarts the
  /// time.
  void begin(const char* phase, double seconds, bool extends = false) {
    limit(seconds, extends);
    at(phase);
  }

  /// Begins a phase likewise before the profiler's begin or after its end: no region.
  void begin_unprofiled(const char* phase, double seconds) {
    limit(seconds, false);
    note(phase);
    profile_.end();
  }

  void moved(std::int64_t item) {
    where_.item.store(item, std::memory_order_relaxed);
    const std::int64_t limit = where_.limit_ns.load(std::memory_order_relaxed);
    if (where_.extends.load(std::memory_order_relaxed) && limit > 0) where_.deadline_ns = now_ns() + limit;
  }

  void set_waiting(bool waiting) {
    where_.waiting.store(waiting, std::memory_order_relaxed);
    if (trace_ != nullptr) trace_->set_waiting(waiting);
  }
  void enter_collective() { where_.collectives.fetch_add(1, std::memory_order_relaxed); }
  const Where& where() const { return where_; }

  /// Has the steps of what follows noted in `trace`, which outlives this; nullptr: no longer.
  void set_trace(Trace* trace) { trace_ = trace; }
  Trace* trace() const { return trace_; }

 private:
  void limit(double seconds, bool extends) {
    const auto limit = seconds <= 0 ? std::int64_t{0} : static_cast<std::int64_t>(seconds * 1e9);
    where_.deadline_ns = 0;  // readers must not see the old one with the new limit
    where_.extends = extends;
    where_.limit_ns = limit;
    where_.deadline_ns = limit == 0 ? 0 : now_ns() + limit;
  }

  void note(const char* phase) {
    std::uint64_t words[Where::kPhaseWords] = {};
    constexpr std::size_t kMost = sizeof(words) - 1;
    for (std::size_t i = 0; i < kMost && phase[i] != '\0'; ++i)
      words[i / 8] |= static_cast<std::uint64_t>(static_cast<unsigned char>(phase[i])) << (8 * (i % 8));
    for (std::size_t i = 0; i < Where::kPhaseWords; ++i) where_.phase[i].store(words[i], std::memory_order_relaxed);
    where_.item = -1;
    where_.waiting = false;
    stage = tensor = peer = -1;
  }

  std::unique_ptr<Where> own_;
  Where& where_;
  kernels::ProfilePhase profile_;  // the working thread's
  Trace* trace_ = nullptr;

 public:
  std::atomic<std::int32_t>& stage = where_.stage;
  std::atomic<std::int32_t>& tensor = where_.tensor;
  std::atomic<std::int32_t>& peer = where_.peer;
};

/// Marks the rank as waiting for others for as long as it lives.
class Waiting {
 public:
  explicit Waiting(Progress* progress) : progress_(progress) {
    if (progress_ == nullptr) return;
    before_ = progress_->where().waiting.load(std::memory_order_relaxed);
    progress_->set_waiting(true);
  }
  ~Waiting() {
    if (progress_ != nullptr) progress_->set_waiting(before_);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Progress* progress_;
  bool before_ = false;
};

/// Returns the name of the phase.
inline std::string phase_of(const Where& where) {
  std::string text;
  for (const std::atomic<std::uint64_t>& word : where.phase) {
    const std::uint64_t bits = word.load(std::memory_order_relaxed);
    for (int i = 0; i < 8; ++i) {
      const char c = static_cast<char>(bits >> (8 * i) & 0xFF);
      if (c == '\0') return text;
      text.push_back(c);
    }
  }
  return text;
}

}  // namespace refit::transport
