#pragma once
// What a dump records about its run, in the place of options that nobody gave.

#include <map>
#include <string>
#include <vector>

#include "app/case_reader.hpp"

namespace refit::app {

bool is_given(const std::vector<Option>& options, std::string_view key);

/// Adds the facts of a dump's metadata as options, where no option gives them.
void add_facts(const std::map<std::string, std::string>& metadata, std::vector<Option>& options);

}  // namespace refit::app
