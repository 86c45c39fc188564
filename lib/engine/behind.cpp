#include "engine/behind.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "engine/process.hpp"

namespace refit::engine {
namespace {

bool is_dead(const Slot& slot, char state) {
  if (state == '\0' || state == 'Z' || state == 'X') return true;
  const std::int64_t started = slot.started;
  return started != 0 && start_of_process(slot.pid) != started;
}

/// Returns only those for which `keep` holds, unless it holds for none.
template <typename Keep>
void narrow(std::vector<Sight>& sights, const Keep& keep) {
  if (std::any_of(sights.begin(), sights.end(), keep)) std::erase_if(sights, [&](const Sight& s) { return !keep(s); });
}

std::vector<Sight> in_state(const std::vector<Sight>& all, const std::vector<Sight::State>& states) {
  std::vector<Sight> found;
  for (const Sight& sight : all) {
    if (std::find(states.begin(), states.end(), sight.state) != states.end()) found.push_back(sight);
  }
  return found;
}

const char* verb(const Sight& sight) {
  switch (sight.state) {
    case Sight::State::absent: return "has not started";
    case Sight::State::silent: return "has given no sign of life since";
    case Sight::State::stopped: return "is stopped in";
    case Sight::State::dead: return "has died in";
    case Sight::State::ended: return "has ended in";
    case Sight::State::running: break;
  }
  if (sight.waiting) return "waits for others in";
  return sight.thread == 'D' ? "waits for a file system or device in" : "is in";
}

}  // namespace

bool is_dead(const Slot& slot) {
  return slot.pid_namespace == pid_namespace() && is_dead(slot, state_of_process(slot.pid));
}

Sight sight_of(const Slot& slot, int local_rank, const std::string& host, bool look) {
  Sight sight;
  sight.local_rank = local_rank;
  sight.host = host;
  const Life life = slot.life;
  if (life == Life::absent) {
    sight.state = Sight::State::absent;
    return sight;
  }
  sight.rank = slot.rank;
  sight.pid = slot.pid;
  sight.phase = transport::phase_of(slot.where);
  sight.stage = slot.where.stage;
  sight.tensor = slot.where.tensor;
  sight.peer = slot.where.peer;
  sight.waiting = slot.where.waiting;
  sight.collectives = slot.where.collectives;
  sight.item = slot.where.item;
  if (life == Life::ended) {
    sight.state = Sight::State::ended;
    return sight;
  }
  if (static_cast<double>(transport::now_ns() - slot.beat) > kSilentSeconds * 1e9) sight.state = Sight::State::silent;
  if (!look || slot.pid_namespace != pid_namespace()) return sight;
  sight.thread = state_of_process(sight.pid);
  if (is_dead(slot, sight.thread)) {
    sight.state = Sight::State::dead;
  } else if (sight.thread == 'T' || sight.thread == 't') {
    sight.state = Sight::State::stopped;
  }
  return sight;
}

std::vector<Sight> behind(const std::vector<Sight>& all) {
  using State = Sight::State;
  for (const auto& states : {std::vector{State::dead}, {State::stopped, State::silent}, {State::absent}}) {
    if (std::vector<Sight> found = in_state(all, states); !found.empty()) return found;
  }
  std::vector<Sight> running = in_state(all, {State::running});
  if (running.empty()) return running;
  const std::int64_t fewest = std::min_element(running.begin(), running.end(), [](const Sight& a, const Sight& b) {
                                return a.collectives < b.collectives;
                              })->collectives;
  std::erase_if(running, [&](const Sight& sight) { return sight.collectives > fewest; });
  narrow(running, [](const Sight& sight) { return !sight.waiting; });
  narrow(running, [](const Sight& sight) { return sight.thread == 'D'; });
  const bool some_run = std::any_of(all.begin(), all.end(), [](const Sight& sight) { return sight.thread == 'R'; });
  if (some_run) narrow(running, [](const Sight& sight) { return sight.thread == 'S'; });
  return running;
}

std::string place_of(const Sight& sight, const TensorName& name) {
  std::string text = sight.phase.empty() ? "its first steps" : fmt::format("phase {}", sight.phase);
  if (sight.stage >= 0) text += fmt::format(", stage {}", sight.stage);
  if (sight.tensor >= 0) text += fmt::format(", tensor {}", name ? name(sight.tensor) : std::to_string(sight.tensor));
  if (sight.peer >= 0) text += fmt::format(", peer {}", sight.peer);
  if (sight.item >= 0) text += fmt::format(", {:.2f} GiB done", static_cast<double>(sight.item) / (1 << 30));
  return text;
}

std::string who(const Sight& sight) {
  if (sight.state == Sight::State::absent && sight.rank >= 0)
    return fmt::format("rank {} (host {})", sight.rank, sight.host);
  if (sight.rank < 0) return fmt::format("local rank {} of host {}", sight.local_rank, sight.host);
  return fmt::format("rank {} (host {}, pid {})", sight.rank, sight.host, sight.pid);
}

std::string describe(const Sight& sight, const TensorName& name) {
  if (sight.state == Sight::State::absent) return fmt::format("{} has not started", who(sight));
  return fmt::format("{} {} {}", who(sight), verb(sight), place_of(sight, name));
}

std::string describe(const std::vector<Sight>& sights, const TensorName& name) {
  constexpr std::size_t kShown = 4;
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, sights.size()); ++i)
    text += (i == 0 ? "" : "; ") + describe(sights[i], name);
  if (sights.size() > kShown) text += fmt::format("; and {} more", sights.size() - kShown);
  return text.empty() ? "no rank is behind" : text;
}

}  // namespace refit::engine
