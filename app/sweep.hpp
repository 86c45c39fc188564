#pragma once
// `--sweep KEY=VALUE,VALUE`: the product of all values of all swept keys, a case each.

#include <functional>
#include <string>
#include <vector>

#include "app/case_reader.hpp"
#include "engine/sweep.hpp"

namespace refit::app {

/// A swept key with its values, as they were typed.
struct SweptKey {
  std::string name;  ///< "gen", "refit.chunk_bytes"
  std::vector<std::string> values;
};

/// Reads "KEY=VALUE,VALUE". KEY is an option without its dashes, or any key of a case; commas in quotes, brackets and
/// braces belong to a value. Errors (usage): another form, an unknown key, one of which a run has only one, and values
/// that are empty or there twice.
SweptKey read_swept_key(const std::string& text);

/// Returns the options that a precision "P" or "P:Q" stands for.
std::vector<Option> precision_options(const std::string& text, const std::string& name);

/// Reads and checks the case of each combination; the last key changes fastest. `read` reads a case with these options
/// more. What this build lacks is noted in the cases. Errors (usage): all mistakes together, each with its combination;
/// more than 1000 combinations. `readable` becomes the first case that could be read, even then.
std::vector<engine::SweptCase> read_sweep(const std::vector<SweptKey>& keys,
                                          const std::function<cases::Case(const std::vector<Option>&)>& read,
                                          std::optional<engine::SweptCase>& readable);

}  // namespace refit::app
