#pragma once
// The table of a case's keys: one row per key drives case files, --set, the short options, suggestions and help.
//
// A new key is one row in keys.cpp and one member in case.hpp; a key of a trainer or an engine is a row and a member in
// its folder.

#include <string>
#include <string_view>
#include <vector>

#include "case/case.hpp"
#include "core/keys.hpp"

namespace refit::cases {

struct Key : keys::Key<Case> {
  std::string preset;    ///< the default as TOML text; "" where a key has none
  bool of_side = false;  ///< read by the trainer or the engine that the case chooses: set it once all others are

  /// Returns whether each engine has a value of its own. `set` and `get` are those of a case's first engine.
  bool of_engine() const { return name.starts_with("gen."); }
  std::string set_for(Case& c, std::size_t engine, const keys::Value& value) const;
  std::string get_of(const Case& c, std::size_t engine) const;
};

/// Returns all keys, in the order of the documentation. Keys that several trainers or engines read are there once.
const std::vector<Key>& case_keys();

/// Returns the key of that name, or nullptr.
const Key* find_key(std::string_view name);

/// Returns all names, for suggestions.
std::vector<std::string> key_names();

}  // namespace refit::cases
