#pragma once
// A run's result as far as it is known, in the hands of two threads: the main thread adds to it between phases, and the
// supervisor's reports a failure with what is there.

#include <mutex>
#include <optional>

#include "report/result.hpp"

namespace refit::engine {

class Findings {
 public:
  explicit Findings(report::Result result) : result_(std::move(result)) {}

  /// The main thread's.
  const report::Result& get() const { return result_; }
  /// The main thread's; `change` must not wait for anything.
  template <typename Change>
  void edit(const Change& change) {
    const std::lock_guard lock(mutex_);
    change(result_);
  }
  /// Any thread's.
  report::Result copy() const {
    const std::lock_guard lock(mutex_);
    return result_;
  }

  /// The main thread's: what the result would be as it is, while it takes longer to find out more.
  void set_verdict(report::Result verdict) {
    const std::lock_guard lock(mutex_);
    verdict_ = std::move(verdict);
  }
  void forget_verdict() {
    const std::lock_guard lock(mutex_);
    verdict_.reset();
  }
  /// Any thread's.
  std::optional<report::Result> verdict() const {
    const std::lock_guard lock(mutex_);
    return verdict_;
  }

 private:
  mutable std::mutex mutex_;
  report::Result result_;
  std::optional<report::Result> verdict_;
};

}  // namespace refit::engine
