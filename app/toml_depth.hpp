#pragma once
// A bound on how deep a TOML file's keys nest, before anything parses it: tables within tables are built and torn down
// by recursion.

#include <string_view>

namespace refit::app {

inline constexpr int kMaxKeyParts = 64;  ///< of one dotted key or table header: a.b.c has 3

/// Returns the line (from 1) of the first key with more parts than that; 0 where there is none. Text in quotes and
/// comments does not count.
int line_of_deep_key(std::string_view text);

}  // namespace refit::app
