#pragma once
// How a row of the table of keys is made: one function per type of member. Only app/case_keys.cpp includes this.
//
// Each takes the key's name, its help and `access`, which returns the member of a case; type, check and printing follow
// from the function, and the default from the member's initial value.

#include <fmt/ranges.h>

#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "app/case_keys.hpp"
#include "app/text.hpp"
#include "core/error.hpp"
#include "core/nearest.hpp"

namespace refit::app::rows {

using engine::Case;

inline constexpr std::int64_t kMany = 1'000'000'000;

inline std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

/// A row whose member is what `access` returns; `assign(member, value)` stores and returns what is wrong, or "".
template <typename Access, typename Assign, typename Print>
Key make_key(std::string name, Kind kind, std::string type, std::string help, std::string option, Access access,
             Assign assign, Print print) {
  return {std::move(name),
          kind,
          std::move(type),
          std::move(help),
          std::move(option),
          [=](Case& c, const Value& value) -> std::string { return assign(access(c), value); },
          [=](const Case& c) -> std::string {
            Case copy = c;  // `access` needs a mutable case; printing is rare
            return print(access(copy));
          }};
}

template <typename Access>
Key text(std::string name, std::string help, Access access, std::string option = "", Kind kind = Kind::text) {
  const auto assign = [](std::string& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a string";
    if (given->empty()) return "is empty; leave it out";
    member = *given;
    return "";
  };
  const auto print = [](const std::string& member) { return member.empty() ? "" : quoted(member); };
  const bool path = kind == Kind::input || kind == Kind::output;
  return make_key(std::move(name), kind, path ? "path" : "text", std::move(help), std::move(option), access, assign,
                  print);
}

template <typename Access>
Key input(std::string name, std::string help, Access access, std::string option = "") {
  return text(std::move(name), std::move(help), access, std::move(option), Kind::input);
}

template <typename Access>
Key output(std::string name, std::string help, Access access, std::string option) {
  return text(std::move(name), std::move(help), access, std::move(option), Kind::output);
}

template <typename Access>
Key boolean(std::string name, std::string help, Access access, std::string option = "") {
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
Key integer(std::string name, std::int64_t least, std::int64_t most, std::string help, Access access,
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

template <typename Access>
Key bytes(std::string name, std::string help, Access access) {
  constexpr std::int64_t kLeast = 64;
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  const auto assign = [](std::int64_t& member, const Value& value) -> std::string {
    std::optional<std::int64_t> given;
    if (const auto* words = std::get_if<std::string>(&value)) given = parse_bytes(*words);
    if (const auto* number = std::get_if<std::int64_t>(&value)) given = *number;
    if (!given || *given < kLeast || *given > kMost) return "needs bytes from 64 to 1TiB, e.g. \"8MiB\"";
    member = *given;
    return "";
  };
  return make_key(std::move(name), Kind::bytes, "bytes", std::move(help), "", access, assign,
                  [](std::int64_t member) { return quoted(bytes_text(member)); });
}

/// A real number in [least, most]; the member may be optional.
template <typename Access>
Key number(std::string name, double least, double most, std::string unit, std::string help, Access access,
           std::string option = "") {
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

/// A word out of an enumeration's choices.
template <typename Access>
Key word(std::string name, std::string help, Access access, std::string option = "") {
  using E = std::decay_t<std::invoke_result_t<Access, Case&>>;
  const auto assign = [](E& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    const std::optional<E> parsed = given == nullptr ? std::nullopt : engine::parse<E>(*given);
    if (!parsed) {
      const engine::Choices all = engine::choices(E{});
      const std::string hint = given == nullptr ? "" : suggestion(*given, {all.begin(), all.end()});
      const std::string what = given == nullptr ? "" : fmt::format(", not \"{}\"", *given);
      return fmt::format("needs one of {}{}{}", fmt::join(all, ", "), what, hint);
    }
    member = *parsed;
    return "";
  };
  return make_key(std::move(name), Kind::word, fmt::format("{}", fmt::join(engine::choices(E{}), " | ")),
                  std::move(help), std::move(option), access, assign,
                  [](E member) { return quoted(engine::name(member)); });
}

template <typename Access>
Key parallelism(std::string name, std::string help, Access access, std::string option) {
  const auto assign = [](layout::Parallelism& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::string>(&value);
    if (given == nullptr) return "needs a layout such as \"TP2xPP2\"";
    try {
      member = layout::parse_parallelism(*given);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto print = [](const layout::Parallelism& member) {
    return member == layout::Parallelism{} ? "" : quoted(layout::to_string(member));
  };
  return make_key(std::move(name), Kind::layout, "layout", std::move(help), std::move(option), access, assign, print);
}

template <typename Access>
Key integers(std::string name, std::string help, Access access) {
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
Key texts(std::string name, std::string help, Access access, std::string option = "") {
  const auto assign = [](std::vector<std::string>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<std::string>>(&value);
    if (given == nullptr) return "needs a list of names, e.g. [\"name\"]";
    member = *given;
    return "";
  };
  const auto print = [](const std::vector<std::string>& member) {
    std::vector<std::string> words;
    for (const std::string& entry : member) words.push_back(quoted(entry));
    return fmt::format("[{}]", fmt::join(words, ", "));
  };
  return make_key(std::move(name), Kind::texts, "names", std::move(help), std::move(option), access, assign, print);
}

inline std::string read_mismatch(const Fields& fields, engine::ExpectedMismatch& out) {
  for (const auto& [field, value] : fields) {
    if (field == "tensors" && std::holds_alternative<std::string>(value)) {
      out.tensors = std::get<std::string>(value);
    } else if (field == "fraction" && std::holds_alternative<double>(value)) {
      out.fraction = std::get<double>(value);
    } else if (field == "fraction" && std::holds_alternative<std::int64_t>(value)) {
      out.fraction = static_cast<double>(std::get<std::int64_t>(value));
    } else {
      return fmt::format("has an unknown or ill-typed {}; it takes tensors = \"GLOB\" and fraction = 0.75", field);
    }
  }
  if (out.tensors.empty()) return "needs tensors = \"GLOB\"";
  return out.fraction > 0 && out.fraction <= 1 ? "" : "needs a fraction above 0 and up to 1";
}

template <typename Access>
Key mismatches(std::string name, std::string help, Access access) {
  const auto assign = [](std::vector<engine::ExpectedMismatch>& member, const Value& value) -> std::string {
    const auto* given = std::get_if<std::vector<Fields>>(&value);
    if (given == nullptr) return "needs tables with tensors = \"GLOB\" and fraction = 0.75";
    member.clear();
    for (const Fields& fields : *given) {
      const std::string wrong = read_mismatch(fields, member.emplace_back());
      if (!wrong.empty()) return wrong;
    }
    return "";
  };
  const auto print = [](const std::vector<engine::ExpectedMismatch>& member) -> std::string {
    std::vector<std::string> rows;
    for (const auto& entry : member) {
      rows.push_back(fmt::format("{{tensors = {}, fraction = {}}}", quoted(entry.tensors), entry.fraction));
    }
    return rows.empty() ? "" : fmt::format("[{}]", fmt::join(rows, ", "));
  };
  return make_key(std::move(name), Kind::table, "tables", std::move(help), "", access, assign, print);
}

}  // namespace refit::app::rows
