#pragma once
// Plain values as bytes, for the control plane. Both ends are the same program, so there is no format to agree on.

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.hpp"

namespace refit::verify {

using Bytes = std::vector<std::byte>;

/// Appends values to a message.
class Writer {
 public:
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) { append(&value, sizeof(T)); }
  void put(const std::string& text) { put_all(std::span<const char>(text)); }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void put_all(std::span<const T> values) {
    put(values.size());
    append(values.data(), values.size_bytes());
  }
  Bytes take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + bytes);
  }
  Bytes bytes_;
};

/// Reads values from a message in the same order. Keeps a reference to the bytes.
class Reader {
 public:
  explicit Reader(const Bytes& bytes) : bytes_(bytes) {}
  template <typename T>
  requires std::is_trivially_copyable_v<T> T get() {
    T value;
    read(&value, sizeof(T));
    return value;
  }
  template <typename T>
  std::vector<T> get_all() {
    std::vector<T> values(get<std::size_t>());
    read(values.data(), values.size() * sizeof(T));
    return values;
  }
  std::string get_text() {
    const std::vector<char> text = get_all<char>();
    return {text.begin(), text.end()};
  }
  bool at_end() const { return position_ == bytes_.size(); }

 private:
  void read(void* data, std::size_t bytes) {
    REFIT_ASSERT(bytes_.size() - position_ >= bytes);
    if (bytes > 0) std::memcpy(data, bytes_.data() + position_, bytes);
    position_ += bytes;
  }
  const Bytes& bytes_;
  std::size_t position_ = 0;
};

}  // namespace refit::verify
