#pragma once
// JSON files from untrusted sources: bounded before they are parsed, with errors that name the file.

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/json_text.hpp"

namespace refit::model {

inline constexpr std::size_t kMaxText = 160;  ///< characters of a file's text that a message may quote

/// Returns a file's text in a form that is fit for a message: printable ASCII, not too long.
std::string quotable(std::string text, std::size_t longest = kMaxText);

/// Returns the document in `path`. `what` names its kind in messages, e.g. "config.json". Errors (usage): no such file,
/// not a file, more than `max_bytes`, not JSON, nested more than kMaxConfigDepth levels deep, with Names::once a name
/// twice in one object; the message names `path`.
enum class Names : std::uint8_t {
  any,  ///< the last of one name counts, as in Python
  once
};
nlohmann::json read_json(const std::string& path, const std::string& what, std::int64_t max_bytes,
                         Names names = Names::any);

}  // namespace refit::model
