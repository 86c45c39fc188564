#pragma once
// The command line: parse, call, return the exit code.

#include <string>
#include <vector>

namespace refit::app {

/// Of what ends before MPI_Init only the launcher knows the rank; true without a launcher.
bool is_first_rank();

/// Runs the command that `arguments` (argv) name. Throws `Error` for everything that ends with another code than 0
/// or 1.
int execute(const std::vector<std::string>& arguments);

}  // namespace refit::app
