#pragma once
// The table of a case's keys: one row per key drives case files, --set, the short options, suggestions and help.
//
// Adding a key is one row in case_keys.cpp and one member in engine/case.hpp.

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/case.hpp"

namespace refit::app {

using Scalar = std::variant<bool, std::int64_t, double, std::string>;
using Fields = std::map<std::string, Scalar>;
/// A value as TOML has it; arrays of one type only.
using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<std::string>,
                           std::vector<Fields>>;

/// How a value is typed on a command line, and what its text is relative to.
enum class Kind : std::uint8_t {
  boolean,
  integer,
  bytes,
  number,
  text,
  word,
  layout,
  integers,
  texts,
  input,
  output,
  table
};

struct Key {
  std::string name;  ///< "refit.bulk"
  Kind kind;
  std::string type;    ///< for help: "all | whitelist | ffn", "bytes", "seconds", "1..65536"
  std::string help;    ///< one sentence
  std::string option;  ///< short option, e.g. "--bulk"; may be empty
  /// Stores a value; returns what is wrong with it, or "".
  std::function<std::string(engine::Case&, const Value&)> set;
  /// The member as TOML text: what `set` reads back. Empty where nothing is there.
  std::function<std::string(const engine::Case&)> get;
};

/// All keys, in the order of the documentation.
const std::vector<Key>& case_keys();

/// The key of that name, or nullptr.
const Key* find_key(std::string_view name);

/// All names, for suggestions.
std::vector<std::string> key_names();

/// The default as TOML text; "" where a key has none.
std::string default_text(const Key& key);

}  // namespace refit::app
