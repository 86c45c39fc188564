#pragma once
// The command line: parse, call, return the exit code.

#include <string>
#include <vector>

namespace refit::app {

/// Returns whether this process has rank 0, as the launcher says, which alone knows it before MPI_Init. True without a
/// launcher.
bool is_first_rank();

/// Runs the command that `arguments` (argv) name. Throws `Error` for everything that ends with another code than 0 or
/// 1.
int execute(const std::vector<std::string>& arguments);

}  // namespace refit::app
