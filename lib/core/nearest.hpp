#pragma once
// The nearest known words to an unknown one, for messages that refuse it.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace refit {

/// Returns the `count` words with the smallest edit distance to `word`, nearest first, but only words nearer than half
/// of its length. None for a word of more than 200 characters.
std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& words, std::size_t count);

/// Returns the nearest of the words, if there is one.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& words);

/// Returns "; did you mean X?" for the nearest word, or "". With `count`: up to so many, "; did you mean X, Y or Z?".
std::string suggestion(std::string_view word, const std::vector<std::string>& words, std::size_t count = 1);

}  // namespace refit
