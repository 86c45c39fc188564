#pragma once
// Tensors of any shape looked at as matrices of bits, and hashes of short runs along their rows.
//
// Example: experts [8, 512, 256] are 4,096 rows of 256; a convolution [1024, 1, 4] is one row of 4,096, since rows of
// four elements say too little about where they come from.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/box.hpp"

namespace refit::diagnose {

using Bits = std::uint64_t;

/// Elements of a run by which contents are recognised; kShortRun where rows have less than kRun.
inline constexpr std::int64_t kRun = 16;
inline constexpr std::int64_t kShortRun = 4;

/// A strided matrix of elements of 1, 2, 4 or 8 bytes.
struct Matrix {
  const std::byte* data = nullptr;
  std::int64_t element_bytes = 2;
  std::int64_t rows = 0, columns = 0;
  std::int64_t row_stride = 0, column_stride = 0;

  Bits operator()(std::int64_t row, std::int64_t column) const {
    const std::byte* element = data + (row * row_stride + column * column_stride) * element_bytes;
    if (element_bytes == 2) return load<std::uint16_t>(element);
    if (element_bytes == 4) return load<std::uint32_t>(element);
    return element_bytes == 1 ? load<std::uint8_t>(element) : load<std::uint64_t>(element);
  }
  template <typename T>
  static Bits load(const std::byte* element) {
    T bits = 0;
    std::memcpy(&bits, element, sizeof(T));
    return bits;
  }
  Matrix transposed() const { return {data, element_bytes, columns, rows, column_stride, row_stride}; }
};

/// Returns how many of a shape's first dimensions count rows; the others, at least kRun elements where there are so
/// many, are columns.
int row_dimensions(const Shape& shape);

/// Returns the numbers of the rows (columns) of a tensor's matrix that a box of it has, ascending.
std::vector<std::int64_t> rows_of(const Shape& shape, const Box& box);
std::vector<std::int64_t> columns_of(const Shape& shape, const Box& box);

/// Views a contiguous tensor as a matrix.
Matrix matrix_of(const std::byte* data, std::int64_t element_bytes, const Shape& shape);

/// Returns the hash of a run; equal runs have equal hashes.
std::uint64_t hash_run(std::span<const Bits> run);
/// Returns the hashes of all runs of `length` in a row, from its first element on; none where the row is shorter.
std::vector<std::uint64_t> run_hashes(std::span<const Bits> row, std::int64_t length);

/// Returns true where a run has four different elements or more, so that its place in a model can be told.
bool is_telling(std::span<const Bits> run);

}  // namespace refit::diagnose
