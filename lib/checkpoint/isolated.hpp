#pragma once
// Work on untrusted input by a library that may crash on it: done in a child process, so that the worst is an error.

#include <functional>
#include <string>

namespace refit::checkpoint {

/// Calls `work` in a forked child and returns its result. An Error that it throws is thrown here; a crash, an abort or
/// more than two minutes of CPU time is a usage error about `path`. The child prints nothing. It must not communicate.
std::string run_isolated(const std::string& path, const std::function<std::string()>& work);

}  // namespace refit::checkpoint
