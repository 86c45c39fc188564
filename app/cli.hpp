#pragma once
// The command line: parse, call, return the exit code.

#include <string>
#include <vector>

namespace refit::app {

/// Runs the command that `arguments` (argv) name; returns the exit code. Throws `Error` for mistakes and failures of
/// commands without ranks; those with ranks report their own.
int execute(const std::vector<std::string>& arguments);

}  // namespace refit::app
