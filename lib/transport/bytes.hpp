#pragma once
// Small values in and out of the control plane's byte strings.

#include <cstring>
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

}  // namespace refit::transport
