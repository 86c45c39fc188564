#include "app/dump_facts.hpp"

#include <algorithm>

namespace refit::app {
namespace {

/// Returns whether the key is that of one of several engines: "gen.1.layout".
bool is_of_one_engine(const std::string& key) {
  return key.starts_with("gen.") && key.size() > 4 && key[4] >= '0' && key[4] <= '9';
}

}  // namespace

bool is_given(const std::vector<Option>& options, std::string_view key) {
  return std::any_of(options.begin(), options.end(), [&](const Option& option) { return option.key == key; });
}

void add_facts(const std::map<std::string, std::string>& metadata, std::vector<Option>& options) {
  const std::string prefix = cases::kFactPrefix;
  const bool has_model = is_given(options, "model.config") || is_given(options, "model.checkpoint");
  const bool has_engines = is_given(options, "gen.layout");
  for (const auto& [name, value] : metadata) {
    if (!name.starts_with(prefix)) continue;
    const std::string key = name.substr(prefix.size());
    const bool is_model = key == "model.config" || key == "model.checkpoint";
    if (is_given(options, key) || (is_model && has_model) || (has_engines && is_of_one_engine(key))) continue;
    options.push_back({key, value, "the dump's " + key});
  }
}

}  // namespace refit::app
