#pragma once
// Functions that make a row of a table of keys: one per type of member.
//
// Each takes the key's name, its help and `access`, which returns the member of an owner; type, check and printing
// follow from the function, and the default from the member's initial value. Example, of a struct Options with a member
// `bool mtp`:
//
//   Rows<Options>::boolean("gen.mtp", "The MTP drafter instead of the main model.",
//                          [](auto& options) -> auto& { return options.mtp; })

#include <fmt/ranges.h>

#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/choice.hpp"
#include "core/keys.hpp"
#include "core/nearest.hpp"
#include "core/text.hpp"

namespace refit::keys {

inline constexpr std::int64_t kMany = 1'000'000'000;

inline std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

/// Returns the text that `quoted` made into this one.
inline std::string unquoted(std::string_view text) {
  std::string result;
  for (std::size_t i = 1; i + 1 < text.size(); ++i) result += text[i] == '\\' ? text[++i] : text[i];
  return result;
}

/// Returns the error for a value that is none of `words`.
inline std::string needs_one_of(const std::vector<std::string>& words, const Value& value) {
  const auto* given = std::get_if<std::string>(&value);
  const std::string hint = given == nullptr ? "" : suggestion(*given, words);
  const std::string what = given == nullptr ? "" : fmt::format(", not \"{}\"", *given);
  return fmt::format("needs one of {}{}{}", fmt::join(words, ", "), what, hint);
}

template <typename Owner>
struct Rows {
  /// Makes a row for the member that `access` returns; `assign(member, value)` stores and returns the error, or "".
  template <typename Access, typename Assign, typename Print>
  static Key<Owner> make_key(std::string name, Kind kind, std::string type, std::string help, std::string option,
                             Access access, Assign assign, Print print) {
    return {std::move(name),
            kind,
            std::move(type),
            std::move(help),
            std::move(option),
            [=](Owner& owner, const Value& value) -> std::string { return assign(access(owner), value); },
            [=](const Owner& owner) -> std::string { return print(access(owner)); }};
  }

  template <typename Access>
  static Key<Owner> text(std::string name, std::string help, Access access, std::string option = "",
                         Kind kind = Kind::text) {
    const auto assign = [](std::string& member, const Value& value) -> std::string {
      const auto* given = std::get_if<std::string>(&value);
      if (given == nullptr) return "needs a string";
      if (given->empty()) return "is empty; leave it out";
      member = *given;
      return "";
    };
    const auto print = [](const std::string& member) { return member.empty() ? "" : keys::quoted(member); };
    const bool path = kind == Kind::input || kind == Kind::output;
    return make_key(std::move(name), kind, path ? "path" : "text", std::move(help), std::move(option), access, assign,
                    print);
  }

  template <typename Access>
  static Key<Owner> input(std::string name, std::string help, Access access, std::string option = "") {
    return text(std::move(name), std::move(help), access, std::move(option), Kind::input);
  }

  template <typename Access>
  static Key<Owner> output(std::string name, std::string help, Access access, std::string option) {
    return text(std::move(name), std::move(help), access, std::move(option), Kind::output);
  }

  template <typename Access>
  static Key<Owner> boolean(std::string name, std::string help, Access access, std::string option = "") {
    const auto assign = [](bool& member, const Value& value) -> std::string {
      const auto* given = std::get_if<bool>(&value);
      if (given == nullptr) return "needs true or false";
      member = *given;
      return "";
    };
    return make_key(std::move(name), Kind::boolean, "true | false", std::move(help), std::move(option), access, assign,
                    [](bool member) { return std::string(member ? "true" : "false"); });
  }

  template <typename Access>
  static Key<Owner> integer(std::string name, std::int64_t least, std::int64_t most, std::string help, Access access,
                            std::string option = "", const std::string& reason = "") {
    const std::string range = fmt::format("{}..{}", least, most);
    const std::string needs = fmt::format("needs an integer in {}{}{}", range, reason.empty() ? "" : ": ", reason);
    const auto assign = [=](std::int64_t& member, const Value& value) -> std::string {
      const auto* given = std::get_if<std::int64_t>(&value);
      if (given == nullptr || *given < least || *given > most) return needs;
      member = *given;
      return "";
    };
    return make_key(std::move(name), Kind::integer, range, std::move(help), std::move(option), access, assign,
                    [](std::int64_t member) { return fmt::format("{}", member); });
  }

  /// Makes the row of a size. `least` may be -1, for a size that is chosen elsewhere.
  template <typename Access>
  static Key<Owner> bytes(std::string name, std::string help, Access access, std::int64_t least = 64,
                          std::int64_t most = std::int64_t{1} << 40) {
    const std::string needs =
        fmt::format("needs bytes from {} to {}{}, e.g. \"8MiB\"", std::max<std::int64_t>(least, 0), bytes_text(most),
                    least < 0 ? ", or -1" : "");
    const auto assign = [=](std::int64_t& member, const Value& value) -> std::string {
      std::optional<std::int64_t> given;
      if (const auto* words = std::get_if<std::string>(&value)) given = parse_bytes(*words);
      if (const auto* number = std::get_if<std::int64_t>(&value)) given = *number;
      if (!given || *given < least || *given > most) return needs;
      member = *given;
      return "";
    };
    return make_key(std::move(name), Kind::bytes, "bytes", std::move(help), "", access, assign,
                    [](std::int64_t member) { return member < 0 ? "-1" : keys::quoted(bytes_text(member)); });
  }

  /// Makes the row of a real number in [least, most]; the member may be optional.
  template <typename Access>
  static Key<Owner> number(std::string name, double least, double most, std::string unit, std::string help,
                           Access access, std::string option = "") {
    const auto assign = [=](auto& member, const Value& value) -> std::string {
      double given = std::numeric_limits<double>::quiet_NaN();
      if (const auto* real = std::get_if<double>(&value)) given = *real;
      if (const auto* whole = std::get_if<std::int64_t>(&value)) given = static_cast<double>(*whole);
      if (!(given >= least && given <= most)) return fmt::format("needs a number from {} to {}", least, most);
      member = given;
      return "";
    };
    const auto print = [](const auto& member) -> std::string {
      if constexpr (std::is_same_v<std::decay_t<decltype(member)>, double>) {
        return fmt::format("{}", member);
      } else {
        return member ? fmt::format("{}", *member) : "";
      }
    };
    return make_key(std::move(name), Kind::number, std::move(unit), std::move(help), std::move(option), access, assign,
                    print);
  }

  /// Makes the row of a word out of an enumeration's choices.
  template <typename Access>
  static Key<Owner> word(std::string name, std::string help, Access access, std::string option = "") {
    using E = std::decay_t<std::invoke_result_t<Access, Owner&>>;
    const auto assign = [](E& member, const Value& value) -> std::string {
      const auto* given = std::get_if<std::string>(&value);
      const std::optional<E> parsed = given == nullptr ? std::nullopt : parse_choice<E>(*given);
      if (!parsed) {
        const Choices all = choices(E{});
        return needs_one_of({all.begin(), all.end()}, value);
      }
      member = *parsed;
      return "";
    };
    return make_key(std::move(name), Kind::word, fmt::format("{}", fmt::join(choices(E{}), " | ")), std::move(help),
                    std::move(option), access, assign, [](E member) { return keys::quoted(refit::name(member)); });
  }

  template <typename Access>
  static Key<Owner> integers(std::string name, std::string help, Access access) {
    const auto assign = [](std::vector<std::int64_t>& member, const Value& value) -> std::string {
      const auto* given = std::get_if<std::vector<std::int64_t>>(&value);
      if (given == nullptr || given->empty()) return "needs a list of integers, e.g. [3, 2]";
      for (std::int64_t entry : *given) {
        if (entry < 0 || entry > kMany) return "has an entry that is negative or too large";
      }
      member = *given;
      return "";
    };
    const auto print = [](const std::vector<std::int64_t>& member) {
      return member.empty() ? "" : fmt::format("[{}]", fmt::join(member, ", "));
    };
    return make_key(std::move(name), Kind::integers, "integers", std::move(help), "", access, assign, print);
  }

  template <typename Access>
  static Key<Owner> texts(std::string name, std::string help, Access access, std::string option = "") {
    const auto assign = [](std::vector<std::string>& member, const Value& value) -> std::string {
      const auto* given = std::get_if<std::vector<std::string>>(&value);
      if (given == nullptr) return "needs a list of names, e.g. [\"name\"]";
      member = *given;
      return "";
    };
    const auto print = [](const std::vector<std::string>& member) {
      std::vector<std::string> words;
      for (const std::string& entry : member) words.push_back(keys::quoted(entry));
      return fmt::format("[{}]", fmt::join(words, ", "));
    };
    return make_key(std::move(name), Kind::texts, "names", std::move(help), std::move(option), access, assign, print);
  }
};

}  // namespace refit::keys
