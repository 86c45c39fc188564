#pragma once
// Small values in and out of the control plane's byte strings.

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/error.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// Appends the bytes of a trivially copyable value.
template <typename T>
void append(Control::Bytes& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

/// Returns the values that `append` wrote, all of one type.
template <typename T>
std::vector<T> read_all(const Control::Bytes& bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  REFIT_ASSERT(bytes.size() % sizeof(T) == 0);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// Appends a text behind its length, for a Reader.
inline void append_text(Control::Bytes& bytes, std::string_view text) {
  append(bytes, static_cast<std::int64_t>(text.size()));
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  bytes.insert(bytes.end(), data, data + text.size());
}

/// Takes values of different types in the order in which they were appended.
class Reader {
 public:
  /// `bytes` must outlive the reader.
  explicit Reader(const Control::Bytes& bytes) : bytes_(bytes) {}
  template <typename T>
  T take() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, next(sizeof(T)), sizeof(T));
    return value;
  }
  std::string take_text() {
    const auto size = static_cast<std::size_t>(take<std::int64_t>());
    return {reinterpret_cast<const char*>(next(size)), size};
  }

 private:
  const std::byte* next(std::size_t size) {
    REFIT_ASSERT(size <= bytes_.size() - at_);
    const std::byte* data = bytes_.data() + at_;
    at_ += size;
    return data;
  }
  const Control::Bytes& bytes_;
  std::size_t at_ = 0;
};

}  // namespace refit::transport
