#pragma once
// The manual's pages and the shells' completion, both from the definition of the command line, which has every word of
// them: they need no care of their own.

#include <string>

namespace CLI {
class App;
}  // namespace CLI

namespace refit::app {

/// Returns the page of man(1) of refit, or of one of its commands: `command` is a subcommand of its parent, or has no
/// parent.
std::string manual_page(const CLI::App& command);

/// Returns the file name of that page: "refit.1", "refit-run.1".
std::string manual_name(const CLI::App& command);

/// Returns bash's completion: commands, options, their values, keys of cases with theirs, and the names of refit list,
/// which it asks the program for.
std::string bash_completion(const CLI::App& app);

}  // namespace refit::app
