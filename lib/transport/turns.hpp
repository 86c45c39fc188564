#pragma once
// The order in which all ranks of a job start the work of its source stages.

#include <cstdint>
#include <utility>
#include <vector>

namespace refit::transport {

/// Merges the stages' work into one order: up to `streams` stages take turns, the lower ones first.
template <typename T>
std::vector<T> in_turns(std::vector<std::vector<T>> by_stage, std::int64_t streams) {
  std::vector<T> order;
  std::vector<std::size_t> next(by_stage.size(), 0);
  for (bool any = true; any;) {
    any = false;
    std::int64_t in_turn = 0;
    for (std::size_t stage = 0; stage < by_stage.size() && in_turn < streams; ++stage) {
      if (next[stage] == by_stage[stage].size()) continue;
      order.push_back(std::move(by_stage[stage][next[stage]++]));
      ++in_turn;
      any = true;
    }
  }
  return order;
}

}  // namespace refit::transport
