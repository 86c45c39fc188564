#include "layout/parallelism.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <numeric>
#include <set>

#include "core/error.hpp"

namespace refit::layout {
namespace {

constexpr std::int64_t kMaxSize = 65536;
constexpr std::int64_t kMaxRanks = std::int64_t{1} << 20;

struct Axis {
  std::string_view name;
  std::int64_t Parallelism::*size;
};

constexpr Axis kAxes[] = {{"HSDP", &Parallelism::hsdp}, {"FSDP", &Parallelism::fsdp}, {"TP", &Parallelism::tp},
                          {"CP", &Parallelism::cp},     {"EP", &Parallelism::ep},     {"ETP", &Parallelism::etp},
                          {"DP", &Parallelism::dp},     {"PP", &Parallelism::pp}};

constexpr std::string_view kAllAxes[] = {"HSDP", "FSDP", "TP", "CP", "EP", "ETP", "DP", "PP"};

/// Returns whether only a trainer that shards parameters has the axis.
bool is_of_shards(const Axis& axis) { return axis.size == &Parallelism::hsdp || axis.size == &Parallelism::fsdp; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

/// Returns that of `axes` whose name `word` begins with.
const Axis* find_axis(std::string_view word, AxisNames axes) {
  std::string upper;
  for (char c : word.substr(0, word.find_first_of("0123456789")))
    upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (const Axis& axis : kAxes) {
    if (axis.name == upper && std::ranges::find(axes, upper) != axes.end()) return &axis;
  }
  return nullptr;
}

std::int64_t parse_size(std::string_view digits, std::string_view word, std::string_view text) {
  std::int64_t size = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size() || size < 1 || size > kMaxSize) {
    fail_usage("layout \"{}\": \"{}\" needs a number from 1 to {}, as in TP2xPP2", text, word, kMaxSize);
  }
  return size;
}

/// Calls `visit` for each word between separators, also for empty ones.
template <typename Visit>
void for_each_word(std::string_view text, const Visit& visit) {
  while (true) {
    const std::size_t cut = text.find_first_of("xX,");
    visit(trim(text.substr(0, cut)));
    if (cut == std::string_view::npos) return;
    text.remove_prefix(cut + 1);
  }
}

void check_ranks(const Parallelism& parallelism, std::string_view text) {
  std::int64_t ranks = 1;
  for (const Axis& axis : kAxes) {
    if (axis.name.starts_with("E")) continue;  // experts share the ranks of the others
    const std::int64_t size = parallelism.*axis.size;
    ranks *= size == 0 ? 1 : size;
    if (ranks > kMaxRanks) fail_usage("layout \"{}\" has more than {} ranks", text, kMaxRanks);
  }
}

}  // namespace

Parallelism parse_parallelism(std::string_view text, AxisNames axes) {
  Parallelism result;
  std::set<std::string_view> seen;
  for_each_word(text, [&](std::string_view word) {
    const Axis* axis = find_axis(word, axes);
    if (axis == nullptr) {
      const Axis* other = find_axis(word, kAllAxes);
      fail_usage("layout \"{}\": \"{}\" is none of {} with a number; {}", text, word, fmt::join(axes, ", "),
                 other != nullptr && is_of_shards(*other) ? "of train layouts, train.trainer = \"fsdp\" has that axis"
                                                          : "write for instance TP2xPP2");
    }
    if (!seen.insert(axis->name).second) fail_usage("layout \"{}\" names {} twice", text, axis->name);
    result.*(axis->size) = parse_size(word.substr(axis->name.size()), word, text);
  });
  check_ranks(result, text);
  return result;
}

std::string to_string(const Parallelism& parallelism) {
  std::string result;
  for (const Axis& axis : kAxes) {
    const std::int64_t size = parallelism.*axis.size;
    if (size <= 1) continue;
    result += fmt::format("{}{}{}", result.empty() ? "" : "x", axis.name, size);
  }
  return result.empty() ? "TP1" : result;
}

Parallelism with_data_parallel(Parallelism parallelism) {
  if (parallelism.dp == 0) {
    const std::int64_t experts = parallelism.ep * parallelism.etp;
    parallelism.dp = experts / std::gcd(experts, parallelism.tp * parallelism.cp);
    check_ranks(parallelism, to_string(parallelism));
  }
  return parallelism;
}

}  // namespace refit::layout
