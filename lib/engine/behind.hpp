#pragma once
// Finds the ranks that the others wait for in a job that does not go on.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/board.hpp"

namespace refit::engine {

/// A rank as another one sees it at one moment.
struct Sight {
  enum class State : std::uint8_t {
    absent,   ///< was started, or is to be, and has not come to refit's first line
    running,  ///< its supervisor's thread runs
    silent,   ///< its supervisor's thread does not run, though the process is there
    stopped,  ///< by a signal
    dead,     ///< the process is no more
    ended     ///< as it should
  };
  State state = State::running;
  char thread = '\0';  ///< state of its main thread, as in state_of_process; '\0' = unknown
  int rank = -1;       ///< in the world; -1: not known yet
  int local_rank = 0;
  std::string host;
  std::int64_t pid = 0;
  std::string phase;
  std::int32_t stage = -1, tensor = -1, peer = -1;
  bool waiting = false;
  std::int64_t collectives = 0;
  std::int64_t item = -1;
};

/// Longest silence of a supervisor's thread; after it, its process counts as not running.
inline constexpr double kSilentSeconds = 2;

/// Returns whether the process of a slot has ended, as far as the kernel shows it to this one.
bool is_dead(const Slot& slot);

/// Returns the sight of a slot's process; with `look` also the kernel's facts about it.
Sight sight_of(const Slot& slot, int local_rank, const std::string& host, bool look);

/// Returns the ranks that the others wait for, in order. These are the ranks that are dead; else those that do not run;
/// else those furthest behind. Furthest behind are the ranks that have entered the fewest collectives of the job; of
/// these, the ranks that do not wait for others; of these, the ranks whose main thread sleeps while others' run.
std::vector<Sight> behind(const std::vector<Sight>& all);

/// Names of tensors by index.
using TensorName = std::function<std::string(std::int32_t)>;

/// Returns e.g. "phase misc, stage 1, tensor lm_head.weight, peer 2".
std::string place_of(const Sight& sight, const TensorName& name);

/// Returns e.g. "rank 3 (host node1, pid 4711)".
std::string who(const Sight& sight);

/// Returns e.g. "rank 3 (host node1, pid 4711) is stopped in phase misc, stage 1"; a few ranks at most.
std::string describe(const std::vector<Sight>& sights, const TensorName& name);

/// Returns the same for one rank.
std::string describe(const Sight& sight, const TensorName& name);

}  // namespace refit::engine
