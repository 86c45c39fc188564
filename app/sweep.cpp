#include "app/sweep.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "case/keys.hpp"
#include "core/nearest.hpp"

namespace refit::app {
namespace {

using cases::case_keys;
using cases::Key;

constexpr std::size_t kMostCombinations = 1000;
constexpr std::string_view kPrecision = "precision";

/// Returns the values between commas that no quote or bracket encloses.
std::vector<std::string> split_values(const std::string& text) {
  std::vector<std::string> values(1);
  int depth = 0;
  char quote = '\0';
  for (const char c : text) {
    if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      values.emplace_back();
      continue;
    }
    values.back() += c;
  }
  return values;
}

/// Returns the key of an option's name without its dashes, or the name itself.
std::string key_of(const std::string& name) {
  for (const Key& key : case_keys()) {
    if (!key.option.empty() && key.option.substr(2) == name) return key.name;
  }
  return name;
}

bool is_known(const std::string& key) {
  // One of several engines has its number in between: gen.1.layout.
  const std::size_t digits = key.starts_with("gen.") ? key.find_first_not_of("0123456789", 4) : std::string::npos;
  const bool of_one = digits != std::string::npos && digits > 4 && key[digits] == '.';
  return cases::find_key(of_one ? "gen" + key.substr(digits) : key) != nullptr;
}

std::vector<std::string> all_names() {
  std::vector<std::string> names = cases::key_names();
  names.emplace_back(kPrecision);
  for (const Key& key : case_keys())
    if (!key.option.empty()) names.push_back(key.option.substr(2));
  return names;
}

/// Returns whether all combinations have the key in common: what a result is called, and where it goes.
bool is_of_the_whole(const std::string& key) {
  return key == "name" || key == "description" || key.starts_with("output.") || key.starts_with("bug.");
}

std::vector<Option> options_of(const std::string& name, const std::string& value) {
  const std::string where = fmt::format("--sweep {}", name);
  if (name == kPrecision) return precision_options(value, where);
  return {{key_of(name), value, where}};
}

/// The combination with this number: the last key changes fastest.
report::SweptValues values_of(const std::vector<SweptKey>& keys, std::size_t number) {
  report::SweptValues values;
  for (std::size_t k = keys.size(); k-- > 0;) {
    values.insert(values.begin(), {keys[k].name, keys[k].values[number % keys[k].values.size()]});
    number /= keys[k].values.size();
  }
  return values;
}

/// Mistakes, each with the first combination that has it and the number of others.
class Mistakes {
 public:
  void add(const std::string& combination, const std::string& what) {
    const auto known = std::ranges::find(all_, what, &Mistake::what);
    if (known == all_.end()) {
      all_.push_back({what, combination});
    } else {
      ++known->others;
    }
  }

  void finish(std::size_t combinations) const {
    if (all_.empty()) return;
    std::vector<std::string> lines;
    for (const Mistake& one : all_) {
      const bool everywhere = one.others + 1 == combinations && combinations > 1;
      lines.push_back(everywhere
                          ? one.what
                          : fmt::format("{}{}: {}", one.first,
                                        one.others == 0 ? "" : fmt::format(" (and {} more)", one.others), one.what));
    }
    fail_usage("{}", fmt::join(lines, "\n"));
  }

 private:
  struct Mistake {
    std::string what, first;
    std::size_t others = 0;
  };
  std::vector<Mistake> all_;
};

}  // namespace

SweptKey read_swept_key(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    fail_usage("--sweep {}: needs KEY=VALUE,VALUE, e.g. --sweep executor=p2p,direct", text);
  SweptKey key{text.substr(0, equals), split_values(text.substr(equals + 1))};
  const std::string name = key_of(key.name);
  if (key.name != kPrecision && !is_known(name))
    fail_usage("--sweep {}: unknown key{}", key.name, suggestion(key.name, all_names()));
  if (is_of_the_whole(name)) fail_usage("--sweep {}: a sweep has one {} for all its combinations", key.name, name);
  for (std::size_t i = 0; i < key.values.size(); ++i) {
    if (key.values[i].empty()) fail_usage("--sweep {}: a value is empty; leave out the comma beside it", text);
    if (std::find(key.values.begin(), key.values.begin() + static_cast<std::ptrdiff_t>(i), key.values[i]) !=
        key.values.begin() + static_cast<std::ptrdiff_t>(i))
      fail_usage("--sweep {}: {} is there twice", text, key.values[i]);
  }
  return key;
}

std::vector<Option> precision_options(const std::string& text, const std::string& name) {
  const std::size_t colon = text.find(':');
  const std::string gen = colon == std::string::npos ? text : text.substr(colon + 1);
  return {{"train.precision", text.substr(0, colon), name}, {"gen.precision", gen, name}};
}

std::vector<engine::SweptCase> read_sweep(const std::vector<SweptKey>& keys,
                                          const std::function<cases::Case(const std::vector<Option>&)>& read,
                                          std::optional<engine::SweptCase>& readable) {
  std::size_t count = 1;
  for (const SweptKey& key : keys) {
    count *= key.values.size();
    if (count > kMostCombinations)
      fail_usage("--sweep: more than {} combinations; sweep fewer keys or values at once", kMostCombinations);
  }
  std::vector<engine::SweptCase> all;
  Mistakes mistakes;
  for (std::size_t number = 0; number < count; ++number) {
    engine::SweptCase one{values_of(keys, number), {}, {}};
    try {
      std::vector<Option> options;
      for (const auto& [name, value] : one.values) {
        for (Option& option : options_of(name, value)) options.push_back(std::move(option));
      }
      one.c = read(options);
      if (!readable) readable = one;
      check_case(one.c);
      cases::require_executor(one.c);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::unavailable) {
        one.waived = error;
      } else {
        mistakes.add(report::label(one.values), error.what());
      }
    }
    all.push_back(std::move(one));
  }
  mistakes.finish(count);
  return all;
}

}  // namespace refit::app
