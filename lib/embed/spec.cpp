#include "embed/spec.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.hpp"
#include "core/key_rows.hpp"
#include "gen/engines.hpp"
#include "train/trainers.hpp"
#include "transport/executors.hpp"

namespace refit::embed {
namespace {

constexpr std::string_view kExecutor[] = {"auto", "direct", "p2p", "golden"};
constexpr std::string_view kBlanks = " \t\r\n";

/// A word of a text: a key with its value, or a value alone.
struct Word {
  std::string key;
  std::string value;
};

/// Returns the words of a text. Errors (usage): a quote without its end.
std::vector<Word> words_of(std::string_view text) {
  std::vector<Word> words;
  std::size_t at = text.find_first_not_of(kBlanks);
  while (at < text.size()) {
    Word word;
    bool has_key = false;
    for (; at < text.size() && kBlanks.find(text[at]) == std::string_view::npos; ++at) {
      if (text[at] == '=' && !has_key) {
        word.key = std::exchange(word.value, {});
        has_key = true;
      } else if (text[at] == '"') {
        const std::size_t end = text.find('"', at + 1);
        if (end == std::string_view::npos) fail_usage("\"{}\": a quote has no end", text);
        word.value += text.substr(at + 1, end - at - 1);
        at = end;
      } else {
        word.value += text[at];
      }
    }
    if (has_key && word.key.empty()) fail_usage("\"{}\": \"={}\" has no key", text, word.value);
    words.push_back(std::move(word));
    at = text.find_first_not_of(kBlanks, at);
  }
  return words;
}

template <typename Number>
std::optional<Number> number_of(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// Returns a text as a value of that kind, or as it is, for the key to refuse.
keys::Value value_of(keys::Kind kind, const std::string& text) {
  switch (kind) {
    case keys::Kind::boolean:
      if (text == "true" || text == "false") return text == "true";
      return text;
    case keys::Kind::integer:
    case keys::Kind::bytes:
      if (const auto number = number_of<std::int64_t>(text)) return *number;
      return text;
    case keys::Kind::number:
      if (const auto number = number_of<double>(text)) return *number;
      return text;
    case keys::Kind::texts: return split_list(text);
    case keys::Kind::integers: {
      std::vector<std::int64_t> numbers;
      for (const std::string& entry : split_list(text)) {
        const auto number = number_of<std::int64_t>(entry);
        if (!number) return text;
        numbers.push_back(*number);
      }
      return numbers;
    }
    default: return text;
  }
}

/// Sets the key of that name. `section`: of the keys' names, before the part that a text has. Errors (usage), behind
/// `where`.
template <typename Owner>
void set(const std::vector<keys::Key<Owner>>& table, const std::string& section, Owner& owner, const Word& word,
         const std::string& where) {
  const auto found = std::ranges::find(table, section + word.key, &keys::Key<Owner>::name);
  if (found == table.end()) {
    std::vector<std::string> names;
    for (const auto& key : table) names.push_back(key.name.substr(section.size()));
    fail_usage("{}: unknown key {}{}; it has {}", where, word.key, suggestion(word.key, names), fmt::join(names, ", "));
  }
  const std::string wrong = found->set(owner, value_of(found->kind, word.value));
  if (!wrong.empty()) fail_usage("{}: {} {}", where, word.key, wrong);
}

/// Parses one side. `what`: "train" or "gen", which is the section of its keys too.
layout::Side parse_side(std::string_view text, const std::string& what, std::span<const layout::SideRow* const> rows,
                        std::vector<std::string>& given) {
  const std::string where = fmt::format("{} \"{}\"", what, text);
  std::vector<std::string> names;
  for (const layout::SideRow* row : rows) names.emplace_back(row->name);
  const std::vector<Word> words = words_of(text);
  if (words.empty() || !words.front().key.empty())
    fail_usage("{}: begins with none of {}, as in \"{} {}\"", where, fmt::join(names, ", "), names.front(),
               rows.front()->example);
  const std::string& name = words.front().value;
  const layout::SideRow* row = layout::find_row(rows, name);
  if (row == nullptr)
    fail_usage("{}: \"{}\" is none of {}{}", where, name, fmt::join(names, ", "), suggestion(name, names));
  layout::Side side = row->make();
  const std::string section = what + ".";
  for (std::size_t i = 1; i < words.size(); ++i) {
    Word word = words[i];
    if (word.key.empty()) word.key = "layout";
    if (std::ranges::find(given, section + word.key) != given.end())
      fail_usage("{}: {} is there twice", where, word.key);
    set(row->keys(), section, *side, word, where);
    given.push_back(section + word.key);
  }
  if (row->example != std::string_view() && std::ranges::find(given, section + "layout") == given.end())
    fail_usage("{}: has no layout; write it behind the name, as in \"{} {}\"", where, name, row->example);
  return side;
}

template <typename Options>
Options parse_options(const char* text, const char* what, const std::vector<keys::Key<Options>>& table) {
  Options options;
  if (text == nullptr) return options;
  const std::string where = fmt::format("{} options \"{}\"", what, text);
  std::vector<std::string> given;
  for (const Word& word : words_of(text)) {
    if (word.key.empty()) fail_usage("{}: \"{}\" is no key=value", where, word.value);
    if (std::ranges::find(given, word.key) != given.end()) fail_usage("{}: {} is there twice", where, word.key);
    given.push_back(word.key);
    set(table, "", options, word, where);
  }
  return options;
}

#define MEMBER(path) \
  [](auto& options) -> auto& { return options.path; }

}  // namespace

Choices choices(Executor) { return kExecutor; }

pair::Sides parse_sides(std::string_view train, std::span<const std::string> engines) {
  if (engines.empty()) fail_usage("gen: there is no engine");
  pair::Sides sides;
  std::vector<std::string> given;
  sides.train = parse_side(train, "train", train::trainers(), given);
  for (const std::string& key : given) sides.given.emplace(key, fmt::format("train \"{}\"", train));
  sides.gen.clear();
  for (std::size_t e = 0; e < engines.size(); ++e) {
    given.clear();
    sides.gen.push_back(parse_side(engines[e], "gen", gen::engines(), given));
    for (const std::string& key : given)
      sides.given.emplace(pair::key_of_engine(key, e, engines.size()), fmt::format("gen \"{}\"", engines[e]));
  }
  complete(sides);
  Complaints complaints(sides.given);
  check_sides(sides, complaints);
  if (!complaints.texts().empty())
    fail_usage("{}", pair::with_reference(fmt::format("{}", fmt::join(complaints.texts(), "\n"))));
  require_precisions(sides);
  return sides;
}

PlanOptions parse_plan_options(const char* text) {
  using Rows = keys::Rows<PlanOptions>;
  return parse_options<PlanOptions>(
      text, "plan",
      {Rows::word("policy", "", MEMBER(policy)), Rows::boolean("colocated", "", MEMBER(colocated)),
       Rows::integer("layers", 0, keys::kMany, "", MEMBER(layers))});
}

WorldOptions parse_world_options(const char* text) {
  using Rows = keys::Rows<WorldOptions>;
  return parse_options<WorldOptions>(text, "world",
                                     {Rows::number("timeout", 0, 1e9, "seconds", "", MEMBER(timeout_seconds)),
                                      Rows::text("interface", "", MEMBER(interface))});
}

SessionOptions parse_session_options(const char* text) {
  using Rows = keys::Rows<SessionOptions>;
  SessionOptions parsed = parse_options<SessionOptions>(
      text, "session",
      {Rows::word("executor", "", MEMBER(executor)), Rows::boolean("fan_out", "", MEMBER(fan_out)),
       Rows::word("delta", "", MEMBER(delta)),
       Rows::integer("streams", 1, transport::kMostStreams, "", MEMBER(streams)),
       Rows::bytes("misc_buffer_bytes", "", MEMBER(misc_buffer_bytes))});
  if (parsed.delta == transport::Delta::off) return parsed;
  if (parsed.executor == Executor::automatic) parsed.executor = Executor::p2p;
  if (parsed.executor != Executor::p2p)
    fail_usage("session: delta={} with executor={}: p2p alone sends deltas", name(parsed.delta), name(parsed.executor));
  return parsed;
}

#undef MEMBER

}  // namespace refit::embed
