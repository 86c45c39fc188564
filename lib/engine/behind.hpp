#pragma once
// Of the ranks of a job that does not go on: which of them the others wait for.

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
    silent,   ///< it does not, though the process is there
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

/// How long a supervisor's thread may be silent before its process counts as not running.
inline constexpr double kSilentSeconds = 2;

/// Whether the process of a slot is no more, as far as the kernel shows it to this one.
bool is_dead(const Slot& slot);

/// The process of a slot; `look` also at what the kernel says of it.
Sight sight_of(const Slot& slot, int local_rank, const std::string& host, bool look);

/// The ranks that the others wait for, in order: those that are no more; else those that do not run; else, of those
/// that run, those furthest behind: that have entered the fewest collectives of the job, of these those that do not
/// wait for others, of these those whose main thread sleeps while others' run.
std::vector<Sight> behind(const std::vector<Sight>& all);

/// Names of tensors by index.
using TensorName = std::function<std::string(std::int32_t)>;

/// "phase misc, stage 1, tensor lm_head.weight, peer 2".
std::string place_of(const Sight& sight, const TensorName& name);

/// "rank 3 (host node1, pid 4711)".
std::string who(const Sight& sight);

/// "rank 3 (host node1, pid 4711) is stopped in phase misc, stage 1": a few ranks at most.
std::string describe(const std::vector<Sight>& sights, const TensorName& name);

/// The same of one rank.
std::string describe(const Sight& sight, const TensorName& name);

}  // namespace refit::engine
