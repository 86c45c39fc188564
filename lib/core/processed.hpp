#pragma once
// Arithmetic by which an engine makes storages of its loaded ones, once all weights are there ("process weights after
// loading"): a number of some scales, or bytes of a matrix in another order, or quantised again.

#include <array>
#include <cstdint>

namespace refit {

/// Makes float32 numbers of float32 scales, which consist of equally large groups: one number for each group.
struct NumberRule {
  enum class Choice : std::uint8_t { largest, first };
  std::int64_t scales = 1;
  std::int64_t groups = 1;
  Choice choice = Choice::largest;  ///< of a group
  bool inverts_before = false;      ///< reciprocals are compared
  bool inverts_after = false;       ///< the reciprocal is the number
};

/// Makes bytes of one or several equally large matrices of bytes, each row-major.
struct ByteRule {
  enum class Order : std::uint8_t {
    kept,
    transposed,
    swizzled  ///< padded with zeros to rows in 128 and columns in 4; 32 rows x 4 columns lie together (CUTLASS)
  };
  enum class Requantise : std::uint8_t { never, where_unequal, always };
  static constexpr int kComponents = 4;  ///< most of a fused matrix

  std::int64_t matrices = 1, rows = 0, columns = 0;  ///< of the source
  Order order = Order::kept;
  bool swaps_halves = false;  ///< of the rows, [gate; up] becoming [up; gate]
  /// E4M3 values with a float32 scale for each component of each matrix get the largest of its scales.
  Requantise requantise = Requantise::never;
  int components = 1;
  std::array<std::int64_t, kComponents> begin{};  ///< first row of each component

  constexpr std::int64_t padded_rows() const {
    return order == Order::swizzled ? (rows + 127) / 128 * 128 : order == Order::transposed ? columns : rows;
  }
  constexpr std::int64_t padded_columns() const {
    return order == Order::swizzled ? (columns + 3) / 4 * 4 : order == Order::transposed ? rows : columns;
  }
};

}  // namespace refit
