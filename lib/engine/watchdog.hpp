#pragma once
// Ends a job whose refit takes longer than it may: no hang without a message.

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "model/model.hpp"
#include "transport/progress.hpp"

namespace refit::engine {

/// A thread that watches one deadline at a time. When it passes, the rank says on stderr what it was doing; a moment
/// later, so that all ranks have spoken, `expired` is called on the watchdog's thread and must end the process. The
/// lowest rank that is alive comes first.
class Watchdog {
 public:
  Watchdog(int rank, const model::Model& model, const transport::Progress& progress,
           std::function<void(const std::string&)> expired);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Starts a deadline `seconds` from now; 0 or less = none.
  void arm(double seconds);
  void disarm();

 private:
  void watch();
  std::string describe() const;

  int rank_;
  const model::Model& model_;
  const transport::Progress& progress_;
  std::function<void(const std::string&)> expired_;
  double seconds_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace refit::engine
