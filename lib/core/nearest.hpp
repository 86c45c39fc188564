#pragma once
// Which known word somebody may have meant: for messages that refuse an unknown one.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace refit {

/// The `count` words with the smallest edit distance to `word`, nearest first: only those that are nearer than half of
/// its length. None for a word of more than 200 characters.
std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& words, std::size_t count);

/// The nearest of them, if there is one.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& words);

/// "; did you mean X?" for the nearest word, or "". With `count`: for so many, "; did you mean X, Y or Z?".
std::string suggestion(std::string_view word, const std::vector<std::string>& words, std::size_t count = 1);

}  // namespace refit
