#include "model/json_text.hpp"

namespace refit::model {
namespace {

constexpr std::string_view kWords[] = {"NaN", "Infinity", "-Infinity"};

/// Returns the bare word that `text` begins with, or "".
std::string_view bare_word(std::string_view text) {
  for (std::string_view word : kWords) {
    if (text.starts_with(word)) return word;
  }
  return "";
}

}  // namespace

std::string without_bare_floats(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view word = quoted ? "" : bare_word(text.substr(i));
    if (!word.empty()) {
      result.append("{\"__float__\": \"").append(word).append("\"}");
      i += word.size();
      continue;
    }
    if (quoted && text[i] == '\\' && i + 1 < text.size())
      result += text[i++];  // the character behind a backslash ends no string
    else if (text[i] == '"')
      quoted = !quoted;
    result += text[i++];
  }
  return result;
}

}  // namespace refit::model
