#pragma once
// Index arithmetic: shapes, strides and boxes of tensors with up to five dimensions. Values, no memory, no I/O.
//
// Example: Box{{128, 0}, {64, 576}} is rows 128..191 of a matrix with 576 columns; its volume is 36,864 elements.

#include <array>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "core/error.hpp"

namespace refit {

/// Returns `value` / `by`, rounded up; neither is negative.
constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// Returns `value` rounded up to a multiple of `multiple`.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

inline constexpr int kMaxDimensions = 5;
/// Most dimensions that layouts cut and kernels walk over. Tensors of files that no side stores may have more.
inline constexpr int kWalkedDimensions = 4;

/// A short list of element counts, one per dimension: a shape, an index or a set of strides.
class Extents {
 public:
  constexpr Extents() = default;
  constexpr Extents(std::initializer_list<std::int64_t> values) {
    if (values.size() > kMaxDimensions) fail_invariant("a tensor has at most 5 dimensions");
    for (std::int64_t value : values) values_[static_cast<std::size_t>(size_++)] = value;
  }
  /// Returns `dimensions` entries, all `value`.
  static constexpr Extents filled(int dimensions, std::int64_t value) {
    Extents result;
    for (int d = 0; d < dimensions; ++d) result.push_back(value);
    return result;
  }

  constexpr int size() const { return size_; }
  constexpr std::int64_t operator[](int d) const { return values_[static_cast<std::size_t>(d)]; }
  constexpr std::int64_t& operator[](int d) { return values_[static_cast<std::size_t>(d)]; }
  constexpr const std::int64_t* begin() const { return values_.data(); }
  constexpr const std::int64_t* end() const { return values_.data() + size_; }
  constexpr void push_back(std::int64_t value) {
    if (size_ == kMaxDimensions) fail_invariant("a tensor has at most 5 dimensions");
    values_[static_cast<std::size_t>(size_++)] = value;
  }
  friend constexpr auto operator<=>(const Extents&, const Extents&) = default;

 private:
  std::array<std::int64_t, kMaxDimensions> values_{};  // unused entries stay 0, so that comparison is exact
  int size_ = 0;
};

using Shape = Extents;

/// Returns the number of elements; 1 for a scalar (no dimensions).
constexpr std::int64_t product(const Extents& extents) {
  std::int64_t result = 1;
  for (std::int64_t value : extents) result *= value;
  return result;
}

/// Returns the strides of a contiguous row-major array, in elements.
constexpr Extents row_major_strides(const Shape& shape) {
  Extents strides = Extents::filled(shape.size(), 1);
  for (int d = shape.size() - 2; d >= 0; --d) strides[d] = strides[d + 1] * shape[d + 1];
  return strides;
}

/// Returns the index of element number `linear` in row-major order.
constexpr Extents unravel(std::int64_t linear, const Shape& shape) {
  Extents index = Extents::filled(shape.size(), 0);
  for (int d = shape.size() - 1; d >= 0; --d) {
    index[d] = linear % shape[d];
    linear /= shape[d];
  }
  return index;
}

/// Returns the sum of index x stride: the element offset of `index`.
constexpr std::int64_t offset_of(const Extents& index, const Extents& strides) {
  std::int64_t result = 0;
  for (int d = 0; d < index.size(); ++d) result += index[d] * strides[d];
  return result;
}

/// Returns true when `extent` elements with `strides` lie without gaps in row-major order.
constexpr bool is_contiguous(const Extents& extent, const Extents& strides) {
  std::int64_t expected = 1;
  for (int d = extent.size() - 1; d >= 0; --d) {
    if (extent[d] != 1 && strides[d] != expected) return false;
    expected *= extent[d];
  }
  return true;
}

/// A rectangular part of a tensor: indices lower[d] .. lower[d] + extent[d] - 1 in every dimension d.
struct Box {
  Extents lower;
  Extents extent;

  friend constexpr auto operator<=>(const Box&, const Box&) = default;

  /// Returns the whole of a tensor.
  static constexpr Box whole(const Shape& shape) { return {Extents::filled(shape.size(), 0), shape}; }
  constexpr std::int64_t volume() const { return product(extent); }
  constexpr bool empty() const { return volume() == 0; }
};

/// Returns the common part of two boxes of one tensor; nothing where they do not overlap.
constexpr std::optional<Box> intersect(const Box& a, const Box& b) {
  Box result{a.lower, a.extent};
  for (int d = 0; d < a.lower.size(); ++d) {
    const std::int64_t lower = a.lower[d] > b.lower[d] ? a.lower[d] : b.lower[d];
    const std::int64_t upper_a = a.lower[d] + a.extent[d];
    const std::int64_t upper_b = b.lower[d] + b.extent[d];
    const std::int64_t upper = upper_a < upper_b ? upper_a : upper_b;
    if (upper <= lower) return std::nullopt;
    result.lower[d] = lower;
    result.extent[d] = upper - lower;
  }
  if (result.empty()) return std::nullopt;
  return result;
}

/// Returns the index of element number `linear` of a box, in row-major order.
constexpr Extents unravel(std::int64_t linear, const Box& box) {
  Extents index = unravel(linear, box.extent);
  for (int d = 0; d < index.size(); ++d) index[d] += box.lower[d];
  return index;
}

/// Returns `inner`'s first index counted from `outer`'s first index.
constexpr Extents relative(const Box& inner, const Box& outer) {
  Extents result = inner.lower;
  for (int d = 0; d < result.size(); ++d) result[d] -= outer.lower[d];
  return result;
}

/// Returns e.g. "[2, 3, 4]".
std::string to_string(const Extents& extents);
/// Returns e.g. "[128:192, 0:576]".
std::string to_string(const Box& box);

}  // namespace refit
