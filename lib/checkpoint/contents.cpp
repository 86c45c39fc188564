#include "checkpoint/contents.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

/// Bytes of the UTF-8 sequence that starts `text`, 0 if it is malformed (overlong, surrogate, beyond U+10FFFF).
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool valid = !(first == 0xE0 && byte(1) < 0xA0) && !(first == 0xED && byte(1) >= 0xA0);
    return valid && follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool valid = !(first == 0xF0 && byte(1) < 0x90) && !(first == 0xF4 && byte(1) >= 0x90);
    return valid && follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

const Entry* Checkpoint::find(const std::string& name) const {
  const auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : &entries[static_cast<std::size_t>(found->second)];
}

std::vector<model::TensorInfo> Checkpoint::tensor_infos() const {
  std::vector<model::TensorInfo> result;
  result.reserve(entries.size());
  for (const Entry& entry : entries) result.push_back(entry.info);
  return result;
}

std::optional<std::int64_t> checked_bytes(const Shape& shape, DType dtype) {
  std::int64_t result = byte_size(dtype);
  bool empty = false;
  for (std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty = empty || extent == 0;
    // An extent of 0 must not hide an overflow of the others: strides are products of them.
    if (extent != 0 && __builtin_mul_overflow(result, extent, &result)) return std::nullopt;
  }
  return empty ? 0 : result;
}

std::string in_quotes(std::string_view name) {
  constexpr std::size_t kLongest = 160;
  std::string result = "'";
  for (char c : name.substr(0, kLongest)) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7F) {
      result += fmt::format("\\x{:02x}", code);
    } else {
      result += c;
    }
  }
  return result + (name.size() > kLongest ? "...'" : "'");
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

void sort_disjoint(std::vector<Entry>& entries, const std::string& path) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::make_pair(a.offset, a.offset + a.bytes()) < std::make_pair(b.offset, b.offset + b.bytes());
  });
  for (std::size_t i = 1; i < entries.size(); ++i) {
    const Entry& previous = entries[i - 1];
    const Entry& next = entries[i];
    if (next.offset < previous.offset + previous.bytes()) {
      fail_usage("{}: tensors {} and {} overlap at offset {}", path, in_quotes(previous.info.name),
                 in_quotes(next.info.name), next.offset);
    }
  }
}

std::string list_some(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 10;
  std::string result;
  for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) result += (i == 0 ? "" : ", ") + items[i];
  if (items.size() > kShown) result += fmt::format(" and {} more", items.size() - kShown);
  return result;
}

}  // namespace refit::checkpoint
