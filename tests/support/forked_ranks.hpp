#pragma once
// Ranks as processes that this one forks, and that have nothing in common but an all-gather.

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "transport/sockets.hpp"

namespace refit::test_support {

/// How a rank's process has ended.
struct Ended {
  std::string text;  ///< what its body has returned
  int status = 0;    ///< as waitpid has it; 0: it returned
};

/// Runs `body(rank, all_gather)` in `ranks` processes; it returns a text of less than 4,000 characters. Processes that
/// have not ended after `deadline` are killed. What a body throws becomes its text, after "threw: ". To be called while
/// this process has one thread.
std::vector<Ended> fork_ranks(int ranks, const std::function<std::string(int, const transport::AllGather&)>& body,
                              std::chrono::seconds deadline = std::chrono::seconds(100));

}  // namespace refit::test_support
