#pragma once
// The words that cases write for an enumeration's values. An enumeration has them where a function beside it says so:
// `Choices choices(E)` returns them in the order of its enumerators, e.g. {"all", "whitelist", "ffn"}.

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace refit {

using Choices = std::span<const std::string_view>;

/// An enumeration that a key selects from.
template <typename E>
concept Choice = requires(E value) {
  choices(value);
};

/// Returns the word of a value, e.g. name(Communicators::per_stage) is "per-stage".
template <Choice E>
std::string_view name(E value) {
  return choices(value)[static_cast<std::size_t>(value)];
}

/// Returns the value of a word; nothing for an unknown one.
template <Choice E>
std::optional<E> parse_choice(std::string_view word) {
  const Choices words = choices(E{});
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == word) return static_cast<E>(i);
  }
  return std::nullopt;
}

}  // namespace refit
