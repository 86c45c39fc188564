#include "core/nearest.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace refit {
namespace {

constexpr std::size_t kLongestWord = 200;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& words, std::size_t count) {
  if (word.size() > kLongestWord) return {};
  const std::size_t limit = word.size() / 2;
  std::vector<std::pair<std::size_t, const std::string*>> found;
  for (const std::string& candidate : words) {
    if (candidate.size() > word.size() + limit) continue;
    const std::size_t distance = edit_distance(word, candidate);
    if (distance <= limit) found.emplace_back(distance, &candidate);
  }
  const auto order = [word](const auto& one) {  // of equally near ones first what the word is the beginning of
    return std::pair(one.first, one.second->starts_with(word) ? 0 : 1);
  };
  std::ranges::stable_sort(found, {}, order);
  std::vector<std::string> result;
  for (std::size_t i = 0; i < std::min(count, found.size()); ++i) result.push_back(*found[i].second);
  return result;
}

std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& words) {
  const std::vector<std::string> found = nearest(word, words, 1);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

std::string suggestion(std::string_view word, const std::vector<std::string>& words, std::size_t count) {
  std::string text;
  const std::vector<std::string> found = nearest(word, words, count);
  for (std::size_t i = 0; i < found.size(); ++i) {
    text += i == 0 ? "; did you mean " : i + 1 == found.size() ? " or " : ", ";
    text += found[i];
  }
  return text.empty() ? text : text + "?";
}

}  // namespace refit
