#pragma once
// A key of a case: its name, its type and help, and functions that store its value in a struct's member and print it.
//
// The owner of a member declares its key, as one row (core/key_rows.hpp): sections of a case in lib/case, keys of one
// trainer or engine in its folder. One table of all rows drives case files, --set, the short options, suggestions and
// help.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace refit::keys {

using Scalar = std::variant<bool, std::int64_t, double, std::string>;
using Fields = std::map<std::string, Scalar>;
/// A value of TOML; arrays have one type only.
using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<std::string>,
                           std::vector<Fields>>;

/// The form of a value on a command line, and the base of its text where that is relative.
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
  /// Stores a value; returns the error, or "".
  std::function<std::string(Owner&, const Value&)> set;
  /// Returns the member as TOML text, which `set` reads back. Empty where the member has no value.
  std::function<std::string(const Owner&)> get;
};

}  // namespace refit::keys
