#pragma once
// Ranks as processes of their own, which share nothing but a control plane: for what threads of one process cannot
// show.
//
// Example:
//   run_processes(3, [](transport::Control& world) { EXPECT_EQ(world.sum(std::int64_t{1}), 3); });

#include <functional>

#include "transport/communicator.hpp"

namespace refit::test_support {

/// Forks `ranks` processes, calls `body` in each, and returns when all have ended. Failed expectations and exceptions
/// of any of them, and processes that have not ended after a minute, are failures of the test; the others then leave
/// their waits with an error. Must not be called where this process has other threads.
void run_processes(int ranks, const std::function<void(transport::Control&)>& body);

/// Forks one process for `body`, and returns its exit code, or minus the signal that has ended it.
int run_process(const std::function<int()>& body);

}  // namespace refit::test_support
