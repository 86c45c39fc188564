#pragma once
// Small helpers for what people read: byte sizes, grouped digits, lists.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace refit {

/// Bytes of "8MiB", "64 KiB", "1GB" (decimal), "512B" or a plain integer; nothing where it is none or overflows.
std::optional<std::int64_t> parse_bytes(std::string_view text);

/// The shortest exact form: "8MiB", "1000B" is "1KB", 1001 is "1001".
std::string bytes_text(std::int64_t bytes);

/// "1,234,567".
std::string grouped(std::int64_t value);

/// The parts of a text between commas, without blanks around them; none for an empty text.
std::vector<std::string> split_list(std::string_view text);

}  // namespace refit
