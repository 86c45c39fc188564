#pragma once
// A config.json (or another JSON object) as typed keys. Problems are collected, so that one message names all of them.
// Private to lib/model.
//
// A config.json comes from anywhere: its size, nesting depth and every number are bounded before they are used.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/json_file.hpp"

namespace refit::model {

inline constexpr std::int64_t kMaxCount = std::int64_t{1} << 31;  ///< the largest of any size in a config.json
inline constexpr std::int64_t kMaxLayers = 10000;
inline constexpr std::int64_t kMaxExperts = 65536;

/// A key that no function was asked for, and facts of its value.
struct UnreadKey {
  std::string name;
  std::string text;        ///< its value, fit for a message
  bool is_number = false;  ///< a number other than 0
  bool is_flag = false;    ///< true
  bool is_list = false;    ///< a list that is not empty
};

class ConfigFile {
 public:
  /// Reads the file. Errors (usage): unreadable, too large, not JSON, nested too deeply, not an object; the message
  /// names `path`.
  explicit ConfigFile(const std::string& path);
  ~ConfigFile();
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;

  const std::string& path() const { return path_; }

  /// Looks keys up in the object `section` from here on, and in the file itself where the section does not have them.
  void descend(std::string_view section);
  /// Calls `read` with keys looked up likewise, and returns to the former section afterwards.
  void within(std::string_view section, const std::function<void()>& read);
  /// Calls `read` likewise, but does not look in the file itself, whose keys mean other things.
  void only_within(std::string_view section, const std::function<void()>& read);
  /// Returns true where the key stands in the file with a value other than null.
  bool has(std::string_view key) const;
  /// Returns true where the key stands in the file, also with null.
  bool names(std::string_view key) const;
  /// Returns true where the value is an object.
  bool has_object(std::string_view key) const;
  /// Returns the keys of the section, or of the file where there is none, sorted; printable as texts are.
  std::vector<std::string> keys(std::size_t longest = kMaxText) const;
  /// Returns the keys of the section, and of the file where the section has no such key, that none of these functions
  /// was asked for; sorted.
  std::vector<UnreadKey> unread() const;

  // Each of the next functions records a problem and returns `fallback` (or 0, or nothing) where the value is not
  // legal.

  /// Returns a whole number in 1..max; the key is required.
  std::int64_t count(std::string_view key, std::int64_t max = kMaxCount);
  /// Returns a whole number in 1..max, or `fallback` where the key is absent.
  std::int64_t count_or(std::string_view key, std::int64_t fallback, std::int64_t max = kMaxCount);
  /// Returns a whole number in 0..max, or `fallback` where the key is absent.
  std::int64_t number_or(std::string_view key, std::int64_t fallback, std::int64_t max = kMaxCount);
  /// Returns any number; nothing where the key is absent.
  std::optional<double> real(std::string_view key);
  /// Returns true or false, or `fallback` where the key is absent.
  bool flag_or(std::string_view key, bool fallback);
  /// Returns a text, or "" where the key is absent. Bytes that are not printable ASCII are replaced by '?'; a text
  /// longer than `longest` is cut and ends in "...".
  std::string text(std::string_view key, std::size_t longest = kMaxText);
  /// Returns a text, a number, true or false as config.json writes it; "" where the key is absent.
  std::string scalar(std::string_view key);
  /// Returns a list of texts, or of lists of texts, each made printable likewise; empty where the key is absent.
  std::vector<std::string> texts(std::string_view key, std::size_t longest = kMaxText);
  /// Returns a list of whole numbers in 0..kMaxCount, empty where the key is absent.
  std::vector<std::int64_t> indices(std::string_view key);

  /// Records a problem, e.g. problem("mlp_bias", "must be false: ...").
  void problem(std::string_view key, const std::string& what);
  /// Throws (usage) one message with all problems, each with file and key; returns if there is none.
  void check() const;

 private:
  struct Document;
  std::string path_;
  std::unique_ptr<Document> document_;
  std::vector<std::string> problems_;
};

}  // namespace refit::model
