#include "app/toml_depth.hpp"

#include <algorithm>

namespace refit::app {
namespace {

/// Returns the length of the text that begins with a quote, with both quotes, or up to the end of the line (of the file
/// for three quotes) where it is not closed.
std::size_t quoted_length(std::string_view text) {
  const char quote = text.front();
  const std::string_view three = quote == '"' ? "\"\"\"" : "'''";
  const std::string_view close = text.starts_with(three) ? three : three.substr(0, 1);
  for (std::size_t i = close.size(); i < text.size(); ++i) {
    if (close.size() == 1 && text[i] == '\n') return i;
    if (quote == '"' && text[i] == '\\') {
      ++i;
    } else if (text.substr(i).starts_with(close)) {
      return i + close.size();
    }
  }
  return text.size();
}

}  // namespace

int line_of_deep_key(std::string_view text) {
  int line = 1;
  int parts = 1;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      const std::size_t length = quoted_length(text.substr(i));
      line += static_cast<int>(std::count(text.begin() + static_cast<std::ptrdiff_t>(i),
                                          text.begin() + static_cast<std::ptrdiff_t>(i + length), '\n'));
      i += length - 1;
    } else if (c == '#') {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else if (c == '.') {
      if (++parts > kMaxKeyParts) return line;
    } else if (c == '\n' || c == '=' || c == ',' || c == '[' || c == ']' || c == '{' || c == '}') {
      parts = 1;
      line += c == '\n' ? 1 : 0;
    }
  }
  return 0;
}

}  // namespace refit::app
