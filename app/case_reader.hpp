#pragma once
// Cases from files and options: defaults < case file < options, all through the table in case/keys.hpp.

#include <string>
#include <vector>

#include "case/case.hpp"
#include "explain/plan_case.hpp"

namespace refit::app {

/// A key given on the command line.
struct Option {
  std::string key;   ///< "refit.bulk"
  std::string text;  ///< typed like TOML; where that fails, a string
  std::string name;  ///< for messages: "--bulk"
};

/// Form of a case that replays a bug.
enum class Twin : std::uint8_t {
  bug,   ///< as the file says
  fixed  ///< without injections and expectations, and with the keys of [bug.fixed]
};

/// Reads a case; `file` may be empty. Inputs in the file become relative to its folder; a model.config that is not
/// there may be a model of the folder `inputs`. The result is complete. Errors (usage): all mistakes together, one per
/// line, with file, line and column, or the option's name; a fixed twin of a case that is about no bug.
cases::Case read_case(const std::string& file, const std::vector<Option>& options, Twin twin = Twin::bug,
                      const std::string& inputs = "");

/// Throws (usage, unavailable) for contradictions and for features that are not in this build; all violations together.
void check_case(const cases::Case& c);

/// Reads a hardware file of `refit plan --hardware`. Errors (usage): unknown, missing or non-positive keys.
explain::Hardware read_hardware(const std::string& file);

/// Returns the `description` of a case file, "" where it has none; errors as `read_case`, for syntax only.
std::string read_description(const std::string& file);

/// Returns the [bug] of a case file; errors as `read_case`, for its keys only.
cases::BugSection read_bug(const std::string& file);

}  // namespace refit::app
