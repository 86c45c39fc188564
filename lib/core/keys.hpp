#pragma once
// What a key of a case is: its name, its type and help, and how its value gets into the struct that has it and back.
//
// Who owns a member declares its key, as one row (core/key_rows.hpp): sections of a case in lib/case, what belongs to
// one trainer or engine in its folder. One table of all rows drives case files, --set, the short options, suggestions
// and help.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace refit::keys {

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

/// A key whose value is a member of an `Owner`.
template <typename Owner>
struct Key {
  std::string name;  ///< "refit.bulk"
  Kind kind;
  std::string type;    ///< for help: "all | whitelist | ffn", "bytes", "seconds", "1..65536"
  std::string help;    ///< one sentence
  std::string option;  ///< short option, e.g. "--bulk"; may be empty
  /// Stores a value; returns what is wrong with it, or "".
  std::function<std::string(Owner&, const Value&)> set;
  /// The member as TOML text: what `set` reads back. Empty where nothing is there.
  std::function<std::string(const Owner&)> get;
};

}  // namespace refit::keys
