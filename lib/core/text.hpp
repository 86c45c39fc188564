#pragma once
// Small helpers for texts that people read: byte sizes, grouped digits, lists, globs.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.hpp"

namespace refit {

/// Returns the bytes of "8MiB", "64 KiB", "1GB" (decimal), "512B" or a plain integer; nothing for other texts and on
/// overflow.
std::optional<std::int64_t> parse_bytes(std::string_view text);

/// Returns the shortest exact form: "8MiB", "1000B" is "1KB", 1001 is "1001".
std::string bytes_text(std::int64_t bytes);

/// Returns e.g. "1,234,567".
std::string grouped(std::int64_t value);

/// Returns the parts of a text between commas, without blanks around them; none for an empty text.
std::vector<std::string> split_list(std::string_view text);

/// Returns whether a name matches a glob, as a shell matches file names (`*` takes dots too).
bool matches_glob(const std::string& glob, const std::string& name);

// Numbers as people read them. 1 kB = 1e3, 1 MB = 1e6, 1 GB = 1e9 bytes; binary units are written out (GiB).

/// Returns e.g. "12.3 us", "21.950 ms", "1.234 s"; "0 s" for zero.
std::string format_seconds(double seconds);

/// Returns e.g. "61.06 GB", "8.39 MB", "12.00 kB", "7 B".
std::string format_bytes(std::int64_t bytes);

/// Returns e.g. "1 refit", "8,190 refits".
std::string counted(std::int64_t count, const std::string& noun);

/// Returns 32 hexadecimal digits.
std::string hexadecimal(const Sum128& sum);

}  // namespace refit
