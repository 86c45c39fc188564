#include "engine/watchdog.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/console.hpp"

namespace refit::engine {
namespace {

using Clock = std::chrono::steady_clock;

/// All ranks have this long to say where they are before the first one ends the job; each rank waits a little longer
/// than the one before, so that normally only one of them does.
constexpr auto kTimeToSpeak = std::chrono::milliseconds(1500);
constexpr auto kTurn = std::chrono::milliseconds(200);
constexpr int kTurns = 20;

}  // namespace

Watchdog::Watchdog(int rank, const model::Model& model, const transport::Progress& progress,
                   std::function<void(const std::string&)> expired)
    : rank_(rank), model_(model), progress_(progress), expired_(std::move(expired)), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::arm(double seconds) {
  if (seconds <= 0) return;
  const std::lock_guard lock(mutex_);
  seconds_ = seconds;
  deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  changed_.notify_all();
}

void Watchdog::disarm() {
  const std::lock_guard lock(mutex_);
  deadline_.reset();
}

std::string Watchdog::describe() const {
  const char* phase = progress_.phase;
  const std::int32_t stage = progress_.stage;
  const std::int32_t tensor = progress_.tensor;
  const std::int32_t peer = progress_.peer;
  std::string text = fmt::format("phase {}", phase);
  if (stage >= 0) text += fmt::format(", stage {}", stage);
  if (tensor >= 0 && static_cast<std::size_t>(tensor) < model_.tensors.size()) {
    text += fmt::format(", tensor {}", model_.tensors[static_cast<std::size_t>(tensor)].name);
  }
  if (peer >= 0) text += fmt::format(", peer {}", peer);
  return text;
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (!deadline_) {
      changed_.wait(lock);
      continue;
    }
    if (Clock::now() < *deadline_) {
      changed_.wait_until(lock, *deadline_);
      continue;
    }
    const std::string message = fmt::format("timeout: no end after {:.4g} s: {}", seconds_, describe());
    print_error("refit: rank {}: {}\n", rank_, message);
    lock.unlock();
    std::this_thread::sleep_for(kTimeToSpeak + kTurn * std::min(rank_, kTurns));
    expired_(message);
    return;
  }
}

}  // namespace refit::engine
