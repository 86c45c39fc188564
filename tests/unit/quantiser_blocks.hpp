#pragma once
// A matrix through kernels/quantiser.hpp's three steps, block by block, as a kernel goes through it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/bits.hpp"
#include "kernels/quantise_reference.hpp"
#include "kernels/quantiser.hpp"
#include "unit/quantiser_values.hpp"

namespace refit::quantiser_test {

/// A matrix's values, which may lie in rows of more columns than it has.
struct Matrix {
  DType dtype = DType::f32;
  std::int64_t rows = 0, columns = 0, row_stride = 0;
  std::vector<std::byte> values;

  float at(std::int64_t row, std::int64_t column) const {
    const std::int64_t index = row * row_stride + column;
    std::uint32_t bits = 0;
    kernels::with_types(dtype, DType::f32, [&](auto from, auto) {
      using From = decltype(from);
      bits = kernels::convert<From, kernels::F32>(kernels::load<typename From::Bits>(values.data(), index));
    });
    return std::bit_cast<float>(bits);
  }
};

struct Quantised {
  std::vector<std::uint8_t> bytes;
  std::vector<std::byte> scales;
};

inline Quantised sized_for(Quantiser quantiser, const Matrix& matrix) {
  const std::int64_t scales = product(block_grid({matrix.rows, matrix.columns}, block_size(quantiser)));
  return {std::vector<std::uint8_t>(static_cast<std::size_t>(matrix.rows * matrix.columns)),
          std::vector<std::byte>(static_cast<std::size_t>(scales * byte_size(scale_dtype(quantiser))))};
}

inline Quantised by_reference(Quantiser quantiser, const Matrix& matrix) {
  Quantised result = sized_for(quantiser, matrix);
  kernels::quantise_reference(quantiser, matrix.values.data(), matrix.dtype, matrix.rows, matrix.columns,
                              matrix.row_stride, result.bytes.data(), result.scales.data());
  return result;
}

inline Quantised by_steps(Quantiser quantiser, const Matrix& matrix) {
  Quantised result = sized_for(quantiser, matrix);
  std::int64_t block = 0;
  for (std::int64_t top = 0; top < matrix.rows; top += block_size(quantiser).rows) {
    for (std::int64_t left = 0; left < matrix.columns; left += block_size(quantiser).columns, ++block) {
      const std::int64_t bottom = std::min(top + block_size(quantiser).rows, matrix.rows);
      const std::int64_t right = std::min(left + block_size(quantiser).columns, matrix.columns);
      const bool ragged = bottom - top < block_size(quantiser).rows || right - left < block_size(quantiser).columns;
      std::uint32_t amax = 0;
      if (ragged && pads_with_last(quantiser)) {
        amax = kernels::magnitude_bits(matrix.at(matrix.rows - 1, matrix.columns - 1));
      }
      for (std::int64_t r = top; r < bottom; ++r) {
        for (std::int64_t c = left; c < right; ++c) amax = std::max(amax, kernels::magnitude_bits(matrix.at(r, c)));
      }
      const auto scale = kernels::block_scale(quantiser, std::bit_cast<float>(amax), matrix.dtype);
      const auto size = byte_size(scale_dtype(quantiser));
      std::memcpy(result.scales.data() + block * size, &scale.stored, static_cast<std::size_t>(size));
      for (std::int64_t r = top; r < bottom; ++r) {
        for (std::int64_t c = left; c < right; ++c) {
          result.bytes[static_cast<std::size_t>(r * matrix.columns + c)] =
              kernels::quantise_value(quantiser, matrix.at(r, c), scale.factor);
        }
      }
    }
  }
  return result;
}

/// Bit for bit; names the first byte and the first scale that differ.
inline void expect_same(const Quantised& found, const Quantised& expected, const std::string& what) {
  ASSERT_EQ(found.bytes.size(), expected.bytes.size()) << what;
  ASSERT_EQ(found.scales.size(), expected.scales.size()) << what;
  for (std::size_t i = 0; i < expected.scales.size(); ++i) {
    ASSERT_EQ(found.scales[i], expected.scales[i]) << what << ": byte " << i << " of the scales";
  }
  for (std::size_t i = 0; i < expected.bytes.size(); ++i) {
    ASSERT_EQ(found.bytes[i], expected.bytes[i]) << what << ": element " << i;
  }
}

}  // namespace refit::quantiser_test
