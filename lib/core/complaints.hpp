#pragma once
// Complaints about a case: sentences, each behind its key and the place where the key was given.

#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace refit {

/// The places where keys were given: "refit.streams" -> "case.toml:12:3". Keys that have their defaults are missing.
using GivenKeys = std::map<std::string, std::string>;

class Complaints {
 public:
  /// Keeps a reference to `keys`. `who`: about whom it is, before each key, e.g. "gen[1]: ".
  explicit Complaints(const GivenKeys& keys, std::string who = "") : keys_(keys), who_(std::move(who)) {}

  bool given(const std::string& key) const { return keys_.contains(key); }

  /// Adds "case.toml:12:3: refit.streams: WHAT"; without a place where the key was not given.
  void add(const std::string& key, const std::string& what);
  void require(bool condition, const std::string& key, const std::string& what) {
    if (!condition) add(key, what);
  }
  /// Adds a complaint about each of `keys` that was given although it has no effect: "means nothing BECAUSE; leave it
  /// out".
  void meaningless(std::initializer_list<std::string> keys, const std::string& because);

  /// Adds the other's complaints.
  void take(const Complaints& other) { texts_.insert(texts_.end(), other.texts_.begin(), other.texts_.end()); }

  const std::vector<std::string>& texts() const { return texts_; }

 private:
  const GivenKeys& keys_;
  std::string who_;
  std::vector<std::string> texts_;
};

}  // namespace refit
