#pragma once
// Facts about processes that the kernel knows.

#include <cstdint>

namespace refit::engine {

/// Returns the state of a process or thread as /proc has it: R runs, S sleeps, D waits for a device or file system, T
/// is stopped, Z has ended; '\0' where there is none of that number (any more).
char state_of_process(std::int64_t pid);

/// Returns when the process was started, in ticks since boot; 0 where there is none.
std::int64_t start_of_process(std::int64_t pid);

/// Returns how long ago this process was started, in seconds; 0 where the kernel does not say.
double age_of_this_process();

/// Returns the namespace in which this process's pid is counted.
std::int64_t pid_namespace();

}  // namespace refit::engine
