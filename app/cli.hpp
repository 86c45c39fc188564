#pragma once
// The command line: parse, call, return the exit code.

#include <string>
#include <vector>

namespace refit::app {

/// Runs the command that `arguments` (argv) name. Throws `Error` for everything that ends with another code than 0
/// or 1.
int execute(const std::vector<std::string>& arguments);

}  // namespace refit::app
