#include "model/modules.hpp"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <optional>
#include <regex>
#include <vector>

namespace refit::model {
namespace {

constexpr std::string_view kExpression = "re:";

/// Returns the expression that a list writes behind "re:". libstdc++'s polynomial matcher takes no more time than
/// length times states, whatever a file says.
std::optional<std::regex> compiled(const std::string& entry) {
  try {
    const auto grammar = std::regex::ECMAScript | std::regex::nosubs | std::regex_constants::__polynomial;
    return std::regex(entry.substr(kExpression.size()), grammar);
  } catch (const std::regex_error&) {
    return std::nullopt;
  }
}

/// Returns true where an expression has no escape and no group that mean something else in Python than here.
bool is_common(std::string_view expression) {
  constexpr std::string_view kEscapes = "bBdDsSwWfnrtv";
  for (std::size_t i = 0; i + 1 < expression.size(); ++i) {
    const char next = expression[i + 1];
    if (expression[i] == '(' && next == '?') {
      if (i + 2 < expression.size() && expression[i + 2] != ':' && expression[i + 2] != '=' && expression[i + 2] != '!')
        return false;
    } else if (expression[i] == '\\') {
      const bool is_word = std::isalnum(static_cast<unsigned char>(next)) != 0;
      if (is_word && kEscapes.find(next) == std::string_view::npos) return false;
      ++i;
    }
  }
  return true;
}

/// Returns true where the counts of repetitions, as if each lay within all others, stay so small that the matcher's
/// recursion does.
bool is_small(std::string_view expression) {
  constexpr std::int64_t kMost = 1000;
  std::int64_t product = 1;
  for (std::size_t at = expression.find('{'); at < expression.size(); at = expression.find('{', at + 1)) {
    std::int64_t largest = 1, count = 0;
    for (std::size_t i = at + 1; i < expression.size() && (std::isdigit(expression[i]) != 0 || expression[i] == ',');
         ++i) {
      count = expression[i] == ',' ? 0 : std::min(10 * count + (expression[i] - '0'), kMost + 1);
      largest = std::max(largest, count);
    }
    product *= largest;
    if (product > kMost) return false;
  }
  return true;
}

bool is_like(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace

struct Modules::Lists {
  std::vector<std::string> names;
  std::vector<std::regex> expressions;
  bool are_exact = false;  ///< a module that lies within a named one is not named

  bool has(const std::string& module) const {
    const auto is_named = [&](const std::string& listed) {
      if (are_exact) return listed == module;
      return is_like(listed, module) || is_like(listed + ".*", module);
    };
    // As Python's re.match: from the name's beginning, not to its end.
    const auto matches = [&](const std::regex& expression) {
      return std::regex_search(module, expression, std::regex_constants::match_continuous);
    };
    return std::ranges::any_of(names, is_named) || std::ranges::any_of(expressions, matches);
  }
};

Modules::Modules(const Config& config) {
  const auto lists = std::make_shared<Lists>();
  lists->are_exact = config.exact_modules;
  for (const std::string& entry : config.not_converted) {
    if (!entry.starts_with(kExpression)) {
      lists->names.push_back(entry);
    } else if (auto expression = is_small(entry) ? compiled(entry) : std::nullopt) {
      lists->expressions.push_back(std::move(*expression));
    }
  }
  lists_ = lists;
}

bool Modules::are_converted(std::string_view tensor_name) const {
  return !lists_->has(std::string(tensor_name.substr(0, tensor_name.rfind('.'))));
}

bool is_converted(const Config& config, std::string_view tensor_name) {
  return Modules(config).are_converted(tensor_name);
}

std::string_view unreadable(const std::string& entry) {
  if (!entry.starts_with(kExpression)) return "";
  if (!is_common(std::string_view(entry).substr(kExpression.size()))) {
    return "has an escape or a group that refit does not know; write it with (?:..), (?=..), (?!..), \\d, \\w, \\s, "
           "\\b";
  }
  if (!is_small(entry)) return "repeats too much";
  return compiled(entry) ? "" : "is no regular expression";
}

std::string all_but(const std::vector<std::string>& entries) {
  std::vector<std::string> expressions;
  for (const std::string& entry : entries) {
    const bool is_expression = entry.starts_with(kExpression);
    expressions.push_back(is_expression ? entry.substr(kExpression.size()) : escaped(entry) + "$");
  }
  return fmt::format("re:(?!(?:{}))", fmt::join(expressions, ")|(?:"));
}

std::string escaped(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (std::string_view(".*+?()[]{}|^$\\").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

}  // namespace refit::model
