#include "train/megatron/pipeline.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "train/megatron/rules.hpp"

namespace refit::train::megatron {
namespace {

using Counts = std::vector<std::int64_t>;

constexpr std::int64_t kMostSymbols = 65536;

/// A character of a layout string, and its position there.
struct Symbol {
  char character;
  std::size_t at;
};
using Symbols = std::vector<Symbol>;

/// Rewrites a layout string as Megatron-Core does: first brackets, then single characters are repeated.
class Rewriter {
 public:
  explicit Rewriter(std::string_view text) : text_(text) {}

  LayoutString run() {
    Symbols symbols;
    for (std::size_t at = 0; at < text_.size(); ++at) {
      if (text_[at] != ',') symbols.push_back({text_[at], at});
    }
    if (symbols.empty()) return {{}, "is empty; write for instance Ettt|tttL"};
    if (symbols.size() > kMostSymbols) return {{}, too_long()};
    symbols = repeat_characters(repeat_brackets(symbols));
    std::vector<std::string> sections(1);
    for (const Symbol& symbol : symbols) {
      if (symbol.character == '|') {
        sections.emplace_back();
      } else if (std::string_view("EtmL").find(symbol.character) != std::string_view::npos) {
        sections.back() += symbol.character;
      } else {
        fail(symbol, "is none of E, t, m, L, | and a number behind *");
      }
    }
    if (!error_.empty()) return {{}, error_};
    return {sections, ""};
  }

 private:
  static std::string too_long() { return fmt::format("has more than {} layers and sections", kMostSymbols); }

  void fail(const Symbol& symbol, std::string_view what) {
    if (!error_.empty()) return;
    const auto code = static_cast<unsigned char>(symbol.character);
    const bool printable = code > ' ' && code < 127;
    error_ =
        fmt::format("character {}, {}, {}", symbol.at + 1,
                    printable ? fmt::format("\"{}\"", symbol.character) : fmt::format("byte 0x{:02x}", code), what);
  }

  /// Reads "*N" from `place` on. Returns N, or -1 if there is none; `place` is then as before.
  static std::int64_t read_times(const Symbols& symbols, std::size_t& place) {
    if (place >= symbols.size() || symbols[place].character != '*') return -1;
    std::string digits;
    std::size_t end = place + 1;
    for (; end < symbols.size() && symbols[end].character >= '0' && symbols[end].character <= '9'; ++end)
      digits += symbols[end].character;
    if (digits.empty()) return -1;
    std::int64_t times = 0;
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), times);
    place = end;
    return error == std::errc{} ? std::min(times, kMostSymbols + 1) : kMostSymbols + 1;
  }

  /// Appends `part` that often, as long as the whole does not grow too long.
  void append(const Symbols& part, std::int64_t times, Symbols& out) {
    if (std::ssize(out) + times * std::ssize(part) > kMostSymbols) {
      if (error_.empty()) error_ = fmt::format("character {}: it {}", part.front().at + 1, too_long());
      return;
    }
    for (std::int64_t i = 0; i < times; ++i) out.insert(out.end(), part.begin(), part.end());
  }

  Symbols repeat_brackets(const Symbols& symbols) {
    Symbols out;
    for (std::size_t place = 0; place < symbols.size() && error_.empty();) {
      const Symbol first = symbols[place++];
      if (first.character == ')') fail(first, "closes a bracket that is not open");
      if (first.character != '(') {
        out.push_back(first);
        continue;
      }
      Symbols inside;
      while (place < symbols.size() && symbols[place].character != ')') inside.push_back(symbols[place++]);
      const auto nested = std::ranges::find(inside, '(', &Symbol::character);
      if (place == symbols.size()) {
        fail(first, "opens a bracket that is not closed");
      } else if (nested != inside.end()) {
        fail(*nested, "is inside brackets, where no others may be");
      } else if (inside.empty()) {
        fail(first, "has nothing inside its brackets");
      } else {
        const std::int64_t times = read_times(symbols, ++place);
        if (times < 0) fail(first, "needs a number behind its brackets, as in (tt|)*3");
        append(inside, times, out);
      }
    }
    return out;
  }

  Symbols repeat_characters(const Symbols& symbols) {
    Symbols out;
    for (std::size_t place = 0; place < symbols.size() && error_.empty();) {
      const Symbol first = symbols[place++];
      const std::int64_t times = read_times(symbols, place);
      append({first}, times < 0 ? 1 : times, out);
    }
    return out;
  }

  std::string_view text_;
  std::string error_;
};

std::int64_t count(std::string_view letters, char letter) { return std::ranges::count(letters, letter); }

Counts layers_of(const std::vector<std::string>& sections) {
  Counts layers;
  for (const std::string& letters : sections) layers.push_back(count(letters, 't'));
  return layers;
}

std::string joined(const std::vector<std::string>& sections) { return fmt::format("{}", fmt::join(sections, "")); }

/// Returns "PP2", or "PP2 x 3 virtual stages".
std::string stages_text(const Options& options) {
  const std::string pp = fmt::format("PP{}", options.sizes.pp);
  return options.virtual_stages == 1 ? pp : fmt::format("{} x {} virtual stages", pp, options.virtual_stages);
}

Counts refused(std::vector<std::string>& violations, std::string text) {
  violations.push_back("train: " + std::move(text));
  return {};
}

/// Returns the sections of a pipeline_layout.
Counts split_by_string(std::int64_t layers, const Options& options, std::vector<std::string>& violations) {
  const std::int64_t pp = options.sizes.pp;
  const auto [sections, error] = parse_pipeline_layout(options.pipeline_layout);
  if (!error.empty()) return refused(violations, "pipeline_layout: " + error);
  const std::int64_t all = std::ssize(sections);
  if (all % pp != 0) {
    return refused(violations, fmt::format("pipeline_layout has {} sections, which PP{} does not divide; legal: a "
                                           "multiple of {} [L4]",
                                           all, pp, pp));
  }
  if (options.virtual_stages != 1 && options.virtual_stages != all / pp) {
    return refused(violations, fmt::format("virtual_stages {} and pipeline_layout contradict each other: {} sections "
                                           "over PP{} are {} virtual stages; leave virtual_stages out [L4]",
                                           options.virtual_stages, all, pp, all / pp));
  }
  if (pp == 1 && all > 1) {
    return refused(violations, fmt::format("pipeline_layout has {} sections, and Megatron-Core has virtual stages with "
                                           "PP > 1 only; legal: 1 section, or PP > 1",
                                           all));
  }
  const std::string letters = joined(sections);
  if (!letters.starts_with('E') || !letters.ends_with('L') || count(letters, 'E') != 1 || count(letters, 'L') != 1) {
    return refused(violations, "pipeline_layout must begin with its only E (embedding) and end with its only L (loss)");
  }
  Counts result = layers_of(sections);
  const std::int64_t sum = std::accumulate(result.begin(), result.end(), std::int64_t{0});
  if (sum == layers) return result;
  return refused(violations, fmt::format("pipeline_layout has {} decoder layers (t), the model {} [L4]", sum, layers));
}

/// Returns the numbers of layers between the bars of a pattern.
Counts layers_between_bars(const std::string& pattern) {
  Counts counts{0};
  for (char letter : pattern) {
    if (letter == '|') {
      counts.push_back(0);
    } else {
      ++counts.back();
    }
  }
  return counts;
}

/// Returns the sections of a list or a pattern.
Counts split_by_list(std::int64_t layers, const Options& options, std::vector<std::string>& violations) {
  const bool by_pattern = !options.hybrid_layer_pattern.empty();
  Counts list = by_pattern ? layers_between_bars(options.hybrid_layer_pattern) : options.stage_layers;
  const std::int64_t sum = std::accumulate(list.begin(), list.end(), std::int64_t{0});
  const bool positive = *std::ranges::min_element(list) > 0;
  if (positive && std::ssize(list) == options.sizes.pp * options.virtual_stages && sum == layers) return list;
  return refused(violations,
                 fmt::format("{} lists {} stages with {} layers; {} and {} layers, at least one a stage, are needed "
                             "[L4]",
                             by_pattern ? "hybrid_layer_pattern" : "stage_layers", list.size(), sum,
                             stages_text(options), layers));
}

/// Returns the layers of each pipeline rank, with embedding and loss as layers where they are accounted for.
Counts split_ranks(std::int64_t layers, const Options& options, std::vector<std::string>& violations) {
  const std::int64_t first = options.first_stage_layers;
  const std::int64_t last = options.last_stage_layers;
  const std::int64_t stages = options.sizes.pp;
  if (first < 0 || last < 0) {
    return refused(violations,
                   fmt::format("first_stage_layers {} and last_stage_layers {} must not be negative", first, last));
  }
  if (stages == 1 && first > 0 && last > 0)
    return refused(violations, "first_stage_layers and last_stage_layers need PP > 1");
  Counts result(static_cast<std::size_t>(stages), 0);
  result.front() = first;
  if (last > 0) result.back() = last;
  const std::int64_t accounted = (options.account_for_embedding ? 1 : 0) + (options.account_for_loss ? 1 : 0);
  const std::int64_t named = std::accumulate(result.begin(), result.end(), std::int64_t{0});
  const std::int64_t open = std::ranges::count(result, 0);
  const std::int64_t rest = layers + accounted - named;
  if (rest < 0 || (open == 0 && rest != 0) || (open > 0 && (rest % open != 0 || rest == 0))) {
    const std::string extra = accounted == 0 ? "" : fmt::format(", embedding and loss count as {}", accounted);
    return refused(violations,
                   fmt::format("{} layers do not split over PP{}: {} left for {} even stages (first_stage_layers {}, "
                               "last_stage_layers {}{}); set them or stage_layers [L4]",
                               layers, stages, rest, open, first, last, extra));
  }
  for (std::int64_t& count : result) {
    if (count == 0) count = rest / open;
  }
  return result;
}

/// Returns the sections of ranks that have `virtual_stages` each.
Counts split_evenly(std::int64_t layers, const Options& options, std::vector<std::string>& violations) {
  const std::int64_t chunks = options.virtual_stages;
  const std::int64_t pp = options.sizes.pp;
  const Counts ranks = split_ranks(layers, options, violations);
  if (ranks.empty()) return {};
  if (chunks > 1 && pp == 1) {
    return refused(violations, fmt::format("virtual_stages {} and PP1: Megatron-Core has virtual stages with PP > 1 "
                                           "only; legal: virtual_stages 1, or PP > 1",
                                           chunks));
  }
  if (chunks > 1 && pp == 2 && options.first_stage_layers > 0 && options.last_stage_layers > 0) {
    return refused(violations, fmt::format("virtual_stages {}, PP2 and both first_stage_layers and last_stage_layers: "
                                           "Megatron-Core divides by the stages between them, and there is none; leave "
                                           "one of the two out",
                                           chunks));
  }
  std::int64_t divisor = 0;
  for (const std::int64_t count : ranks) divisor = std::gcd(divisor, count);
  if (divisor % chunks != 0) {
    Counts legal;
    for (std::int64_t each = 1; each <= divisor; ++each) {
      if (divisor % each == 0) legal.push_back(each);
    }
    const bool accounted = options.account_for_embedding || options.account_for_loss;
    return refused(violations,
                   fmt::format("virtual_stages {} does not divide the layers of each PP rank{}, {}; legal: {} "
                               "[L4]",
                               chunks, accounted ? " (with embedding and loss)" : "", fmt::join(ranks, ", "),
                               fmt::join(legal, ", ")));
  }
  Counts result;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (const std::int64_t count : ranks) result.push_back(count / chunks);
  }
  if (options.account_for_embedding) --result.front();
  if (options.account_for_loss) --result.back();
  return result;
}

/// Checks the letters m.
void check_prediction_letters(const model::Config& config, const Options& options,
                              std::vector<std::string>& violations) {
  const std::vector<std::string> sections = parse_pipeline_layout(options.pipeline_layout).sections;
  const std::string letters = joined(sections);
  const std::int64_t wanted = prediction_layers(config, options);
  const std::int64_t found = count(letters, 'm');
  if (found != wanted) {
    refused(violations, fmt::format("pipeline_layout has {} layers of multi-token prediction (m), the trainer builds "
                                    "{}; legal: {}",
                                    found, wanted, wanted == 0 ? "none" : fmt::format("{}", wanted)));
    return;
  }
  if (wanted == 0) return;
  if (letters.find('t', letters.find('m')) != std::string::npos)
    refused(violations, "pipeline_layout has decoder layers (t) behind a layer of multi-token prediction (m)");
  const auto home = std::ranges::find_if(sections, [](const std::string& each) { return count(each, 'm') > 0; });
  const std::int64_t section = home - sections.begin();
  const std::int64_t last = std::ssize(sections) - options.sizes.pp;
  if (count(*home, 'm') != wanted)
    refused(violations, "pipeline_layout has layers of multi-token prediction (m) in several sections; legal: one");
  if (section < last) {
    refused(violations, fmt::format("pipeline_layout has m in section {}, which is not the last chunk of its rank; "
                                    "legal: sections {} to {}",
                                    section, last, std::ssize(sections) - 1));
  }
}

}  // namespace

LayoutString parse_pipeline_layout(std::string_view text) { return Rewriter(text).run(); }

std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations) {
  if (!options.pipeline_layout.empty()) return split_by_string(layers, options, violations);
  if (!options.stage_layers.empty() || !options.hybrid_layer_pattern.empty())
    return split_by_list(layers, options, violations);
  return split_evenly(layers, options, violations);
}

Pipeline pipeline_of(const model::Config& config, const Options& options) {
  std::vector<std::string> unused;
  Pipeline result{split_stages(config.layers, options, unused)};
  REFIT_ASSERT(!result.layers.empty());
  const std::int64_t last = std::ssize(result.layers) - 1;
  result.chunks = std::ssize(result.layers) / options.sizes.pp;
  result.prediction = result.final_norm = last;
  if (prediction_layers(config, options) == 0) return result;
  // The final norm is where the last decoder layer is, so that multi-token prediction can follow it anywhere.
  while (result.layers[static_cast<std::size_t>(result.final_norm)] == 0) --result.final_norm;
  const std::vector<std::string> sections = parse_pipeline_layout(options.pipeline_layout).sections;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    if (count(sections[i], 'm') > 0) result.prediction = static_cast<std::int64_t>(i);
  }
  return result;
}

void check_pipeline(const model::Config& config, const Options& options, std::vector<std::string>& violations) {
  const bool by_string = !options.pipeline_layout.empty();
  if (facts_of(config).megatron_hybrid_model) {
    const bool accounted = options.account_for_embedding || options.account_for_loss;
    if (options.virtual_stages > 1)
      refused(violations,
              "virtual stages of a hybrid model, which Megatron-Core does not have; legal: virtual_stages 1");
    if (by_string || accounted) {
      refused(violations,
              "a hybrid model's stages are what hybrid_layer_pattern says; leave out pipeline_layout, "
              "account_for_embedding and account_for_loss");
    }
  } else if (by_string && parse_pipeline_layout(options.pipeline_layout).error.empty()) {
    check_prediction_letters(config, options, violations);
  }
}

}  // namespace refit::train::megatron
