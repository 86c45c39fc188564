#include "model/config_file.hpp"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "model/json_file.hpp"

namespace refit::model {

namespace {

using Json = nlohmann::json;

constexpr auto kReplace = Json::error_handler_t::replace;

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  return quotable(value.dump(-1, ' ', false, kReplace));
}

/// Returns the whole number in `value` if it lies in min..max.
std::optional<std::int64_t> whole_number(const Json& value, std::int64_t min, std::int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(max)) return std::nullopt;
  const auto number = value.get<std::int64_t>();
  if (number < min || number > max) return std::nullopt;
  return number;
}

}  // namespace

struct ConfigFile::Document {
  Json root;
  const Json* section = nullptr;
  bool only_section = false;
  mutable std::set<std::string, std::less<>> asked;  ///< keys

  static const Json* find_in(const Json& object, std::string_view key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  /// Returns the value of `key`, or nullptr where it is absent or null.
  const Json* find(std::string_view key) const {
    asked.emplace(key);
    const Json* inner = section == nullptr ? nullptr : find_in(*section, key);
    return inner == nullptr && !only_section ? find_in(root, key) : inner;
  }
};

ConfigFile::ConfigFile(const std::string& path) : path_(path), document_(std::make_unique<Document>()) {
  document_->root = read_json(path, "config.json", kMaxConfigBytes);
  if (!document_->root.is_object()) fail_usage("{}: is not a JSON object but {}", path, shown(document_->root));
}

ConfigFile::~ConfigFile() = default;

void ConfigFile::descend(std::string_view section) {
  const Json* value = document_->find(section);
  if (value != nullptr && value->is_object()) document_->section = value;
  if (document_->section == nullptr) problem(section, "must be an object");
}

void ConfigFile::within(std::string_view section, const std::function<void()>& read) {
  const Json* outer = document_->section;
  const Json* value = document_->find(section);
  if (value == nullptr || !value->is_object()) return problem(section, "must be an object");
  document_->section = value;
  read();
  document_->section = outer;
}

void ConfigFile::only_within(std::string_view section, const std::function<void()>& read) {
  within(section, [&] {
    const bool outer = document_->only_section;
    document_->only_section = true;
    read();
    document_->only_section = outer;
  });
}

bool ConfigFile::has(std::string_view key) const { return document_->find(key) != nullptr; }

bool ConfigFile::names(std::string_view key) const {
  return has(key) || document_->root.contains(key) ||
         (document_->section != nullptr && document_->section->contains(key));
}

bool ConfigFile::has_object(std::string_view key) const {
  const Json* value = document_->find(key);
  return value != nullptr && value->is_object();
}

std::vector<UnreadKey> ConfigFile::unread() const {
  std::map<std::string, const Json*> keys;
  if (document_->section != nullptr) {
    for (const auto& [key, value] : document_->section->items()) keys.emplace(key, &value);
  }
  for (const auto& [key, value] : document_->root.items()) keys.emplace(key, &value);
  std::vector<UnreadKey> result;
  for (const auto& [key, value] : keys) {
    if (document_->asked.contains(key)) continue;
    result.push_back({.name = quotable(key),
                      .text = value->is_array() ? quotable(value->dump(-1, ' ', false, kReplace), 40) : shown(*value),
                      .is_number = value->is_number() && *value != 0,
                      .is_flag = value->is_boolean() && value->get<bool>(),
                      .is_list = value->is_array() && !value->empty()});
  }
  return result;
}

std::vector<std::string> ConfigFile::keys(std::size_t longest) const {
  std::vector<std::string> result;
  const Json& object = document_->section == nullptr ? document_->root : *document_->section;
  for (const auto& [key, value] : object.items()) result.push_back(quotable(key, longest));
  return result;
}

std::int64_t ConfigFile::count(std::string_view key, std::int64_t max) {
  if (!has(key)) {
    problem(key, "is missing");
    return 0;
  }
  return count_or(key, 0, max);
}

std::int64_t ConfigFile::count_or(std::string_view key, std::int64_t fallback, std::int64_t max) {
  const Json* value = document_->find(key);
  if (value == nullptr) return fallback;
  const auto number = whole_number(*value, 1, max);
  if (!number) problem(key, fmt::format("must be a whole number from 1 to {}, not {}", max, shown(*value)));
  return number.value_or(fallback);
}

std::int64_t ConfigFile::number_or(std::string_view key, std::int64_t fallback, std::int64_t max) {
  const Json* value = document_->find(key);
  if (value == nullptr) return fallback;
  const auto number = whole_number(*value, 0, max);
  if (!number) problem(key, fmt::format("must be a whole number from 0 to {}, not {}", max, shown(*value)));
  return number.value_or(fallback);
}

std::optional<double> ConfigFile::real(std::string_view key) {
  const Json* value = document_->find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  problem(key, fmt::format("must be a number, not {}", shown(*value)));
  return std::nullopt;
}

bool ConfigFile::flag_or(std::string_view key, bool fallback) {
  const Json* value = document_->find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  problem(key, fmt::format("must be true or false, not {}", shown(*value)));
  return fallback;
}

std::string ConfigFile::text(std::string_view key, std::size_t longest) {
  const Json* value = document_->find(key);
  if (value == nullptr) return "";
  if (value->is_string()) return quotable(value->get<std::string>(), longest);
  problem(key, fmt::format("must be a text, not {}", shown(*value)));
  return "";
}

std::string ConfigFile::scalar(std::string_view key) {
  const Json* value = document_->find(key);
  if (value == nullptr) return "";
  if (value->is_string()) return quotable(value->get<std::string>());
  if (!value->is_structured()) return shown(*value);
  problem(key, fmt::format("must be a text, a number, true or false, not {}", shown(*value)));
  return "";
}

std::vector<std::string> ConfigFile::texts(std::string_view key, std::size_t longest) {
  const Json* value = document_->find(key);
  std::vector<std::string> result;
  if (value == nullptr) return result;
  if (!value->is_array()) problem(key, fmt::format("must be a list of texts, not {}", shown(*value)));
  if (!value->is_array()) return result;
  const std::function<void(const Json&)> append = [&](const Json& item) {
    if (item.is_string()) {
      result.push_back(quotable(item.get<std::string>(), longest));
    } else if (item.is_array()) {
      for (const Json& inner : item) append(inner);
    } else {
      problem(key, fmt::format("must be a list of texts; one entry is {}", shown(item)));
    }
  };
  for (const Json& item : *value) append(item);
  return result;
}

std::vector<std::int64_t> ConfigFile::indices(std::string_view key) {
  const Json* value = document_->find(key);
  std::vector<std::int64_t> result;
  if (value == nullptr) return result;
  if (!value->is_array()) problem(key, fmt::format("must be a list of whole numbers, not {}", shown(*value)));
  if (!value->is_array()) return result;
  for (const Json& item : *value) {
    const auto number = whole_number(item, 0, kMaxCount);
    if (!number) {
      problem(key, fmt::format("must be a list of whole numbers from 0; one entry is {}", shown(item)));
      return {};
    }
    result.push_back(*number);
  }
  return result;
}

void ConfigFile::problem(std::string_view key, const std::string& what) {
  std::string text = fmt::format("{}: {} {}", path_, key, what);
  if (std::find(problems_.begin(), problems_.end(), text) == problems_.end()) problems_.push_back(std::move(text));
}

void ConfigFile::check() const {
  constexpr std::size_t kShown = 20;
  if (problems_.empty()) return;
  std::string message;
  for (std::size_t i = 0; i < problems_.size() && i < kShown; ++i) message += (i == 0 ? "" : "\n") + problems_[i];
  if (problems_.size() > kShown) message += fmt::format("\n{}: and {} more", path_, problems_.size() - kShown);
  fail_usage("{}", message);
}

}  // namespace refit::model
