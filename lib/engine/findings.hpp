#pragma once
// A run's result as far as it is known, shared by two threads: the main thread adds to it between phases, and the
// supervisor's thread reports a failure with its present contents.

#include <mutex>
#include <optional>

#include "report/result.hpp"

namespace refit::engine {

class Findings {
 public:
  explicit Findings(report::Result result) : result_(std::move(result)) {}

  /// Returns the result. For the main thread only.
  const report::Result& get() const { return result_; }
  /// Changes the result. For the main thread only; `change` must not wait for anything.
  template <typename Change>
  void edit(const Change& change) {
    const std::lock_guard lock(mutex_);
    change(result_);
  }
  /// Returns a copy. For any thread.
  report::Result copy() const {
    const std::lock_guard lock(mutex_);
    return result_;
  }

  /// Sets the result that stands if finding out more takes too long. For the main thread only.
  void set_verdict(report::Result verdict) {
    const std::lock_guard lock(mutex_);
    verdict_ = std::move(verdict);
  }
  void forget_verdict() {
    const std::lock_guard lock(mutex_);
    verdict_.reset();
  }
  /// Returns the verdict. For any thread.
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
