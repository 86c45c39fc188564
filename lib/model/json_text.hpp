#pragma once
// JSON as Python writes it, and the limits within which it is read.

#include <cstdint>
#include <string>
#include <string_view>

namespace refit::model {

inline constexpr std::int64_t kMaxConfigBytes = 16 * 1024 * 1024;
inline constexpr int kMaxConfigDepth = 64;

/// Returns `text` with the bare words NaN, Infinity and -Infinity, which Python's json writes and no standard knows,
/// replaced by {"__float__": "NaN"} and so on, as newer versions of transformers write them.
std::string without_bare_floats(std::string_view text);

}  // namespace refit::model
