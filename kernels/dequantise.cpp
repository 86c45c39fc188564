#include "kernels/dequantise.hpp"

#include <algorithm>

#include "kernels/bits.hpp"
#include "kernels/int4.hpp"
#include "kernels/kokkos_compat.hpp"
#include "kernels/launch.hpp"
#include "kernels/mxfp4.hpp"

namespace refit::kernels {
namespace {

// The number of element `index` of words that lie one after the other, less its zero point.

struct E4M3Numbers {
  static constexpr std::int64_t kOfWord = 1;
  KOKKOS_INLINE_FUNCTION static float number(const std::byte* words, std::int64_t index, int /*zero*/) {
    return f32_from_e4m3(load<std::uint8_t>(words, index));
  }
};

struct E2M1Numbers {
  static constexpr std::int64_t kOfWord = 2;
  KOKKOS_INLINE_FUNCTION static float number(const std::byte* words, std::int64_t index, int /*zero*/) {
    return f32_from_e2m1(nibble_of(load<std::uint8_t>(words, index >> 1), index));
  }
};

struct Int4Numbers {
  static constexpr std::int64_t kOfWord = 8;
  KOKKOS_INLINE_FUNCTION static float number(const std::byte* words, std::int64_t index, int zero) {
    const NibblePlace place{index >> 3, static_cast<int>(index & 7)};
    return static_cast<float>(static_cast<int>(place.of(load<std::uint32_t>(words, place.word))) - zero);
  }
};

/// Returns a scale as a number.
KOKKOS_INLINE_FUNCTION float scale_of(DType dtype, const std::byte* data, std::int64_t index) {
  switch (dtype) {
    case DType::f16: return std::bit_cast<float>(f32_from_f16(load<std::uint16_t>(data, index)));
    case DType::bf16: return std::bit_cast<float>(f32_from_bf16(load<std::uint16_t>(data, index)));
    case DType::u8:
    case DType::f8_e8m0: return f32_from_e8m0(load<std::uint8_t>(data, index));
    default: return load<float>(data, index);
  }
}

/// Block numbers with the size of their grid.
struct Grid {
  BlockNumbers of;
  std::int64_t rows, columns;

  Grid(const QuantisedPart& part, const BlockNumbers& numbers)
      : of(numbers),
        rows(touched_blocks(Interval{part.row, part.row + part.rows}, of.block.rows).size()),
        columns(touched_blocks(Interval{part.column, part.column + part.columns}, of.block.columns).size()) {}
  /// Returns the index of the first number for a row of a matrix; `first` is the part's first row.
  KOKKOS_INLINE_FUNCTION std::int64_t first_of(std::int64_t matrix, std::int64_t row, std::int64_t first) const {
    return (matrix * rows + row / of.block.rows - first / of.block.rows) * columns;
  }
};

template <typename Numbers>
struct Dequantised {
  QuantisedPart part;
  Grid values, scales, zero_points;
  float* out;

  /// A row of the part: where its numbers begin.
  struct Row {
    const std::byte* words;
    std::int64_t scale, zero;  ///< indices
    int zero_row;              ///< of a word of zero points
    float* out;
  };

  KOKKOS_INLINE_FUNCTION Row row(std::int64_t index) const {
    const std::int64_t matrix = index / part.rows;
    const std::int64_t row = part.row + index % part.rows;
    const std::int64_t word = values.first_of(matrix, row, part.row);
    return {values.of.data + word * (Numbers::kOfWord == 8 ? 4 : 1), scales.first_of(matrix, row, part.row),
            zero_points.first_of(matrix, row, part.row), static_cast<int>(row & 7), out + index * part.columns};
  }
  /// Returns the factor of a row's block of scales.
  KOKKOS_INLINE_FUNCTION float factor(const Row& row, std::int64_t block) const {
    if (part.format == StoredFormat::nvfp4) {
      const float tensor = scale_of(part.tensor_scale.dtype, part.tensor_scale.data, 0);
      return nvfp4_factor(part.kind, load<std::uint8_t>(scales.of.data, row.scale + block), tensor);
    }
    return scale_of(scales.of.dtype, scales.of.data, row.scale + block);
  }
  KOKKOS_INLINE_FUNCTION int zero(const Row& row, std::int64_t block) const {
    if (part.format != StoredFormat::int4_asym) return 8;
    const NibblePlace place{row.zero + block, row.zero_row};
    const auto nibble = place.of(load<std::uint32_t>(zero_points.of.data, place.word));
    return zero_of_stored(part.format, nibble);
  }
  /// Writes columns begin .. end - 1 of a row, which lie in one block.
  KOKKOS_INLINE_FUNCTION void write(const Row& row, std::int64_t block, std::int64_t begin, std::int64_t end) const {
    const float by = factor(row, block);
    const int less = zero(row, block);
    const std::int64_t skipped = part.column & (Numbers::kOfWord - 1);
    for (std::int64_t c = begin; c < end; ++c) row.out[c] = Numbers::number(row.words, skipped + c, less) * by;
  }
  /// Returns the block of a column, of those that the part touches.
  KOKKOS_INLINE_FUNCTION std::int64_t block_of(std::int64_t column) const {
    const std::int64_t size = scales.of.block.columns;
    return (part.column + column) / size - part.column / size;
  }
};

template <typename Numbers>
struct HostRows : Dequantised<Numbers> {
  void operator()(std::int64_t index) const {
    const auto row = this->row(index);
    const std::int64_t size = this->scales.of.block.columns;
    const std::int64_t before = this->part.column % size;  // columns of the first block that the part has not
    for (std::int64_t block = 0; block < this->scales.columns; ++block) {
      const std::int64_t begin = block == 0 ? 0 : block * size - before;
      const std::int64_t end = block + 1 == this->scales.columns ? this->part.columns : (block + 1) * size - before;
      this->write(row, block, begin, end);
    }
  }
};

/// A team's lanes share a row.
template <typename Numbers>
struct DeviceRows : Dequantised<Numbers> {
  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const auto row = this->row(member.league_rank());
    const auto columns = static_cast<int>(this->part.columns);
    Kokkos::parallel_for(Kokkos::TeamVectorRange(member, columns),
                         [&](int c) { this->write(row, this->block_of(c), c, c + 1); });
  }
};

template <typename Numbers>
void write_values(const ExecutionSpace& space, const QuantisedPart& part, float* values) {
  static const std::string label = "refit::dequantise";
  const Dequantised<Numbers> all{part, Grid(part, part.values), Grid(part, part.scales), Grid(part, part.zero_points),
                                 values};
  const std::int64_t rows = part.matrices * part.rows;
  if constexpr (kOnHost) {
    for_each_item(space, label, rows, HostRows<Numbers>{all});
  } else {
    for_each_team(space, label, rows, DeviceRows<Numbers>{all});
  }
}

}  // namespace

void dequantise(const ExecutionSpace& space, const QuantisedPart& part, float* values) {
  switch (part.format) {
    case StoredFormat::fp8_block:
    case StoredFormat::mxfp8:
    case StoredFormat::fp8_tensor:
    case StoredFormat::fp8_channel: return write_values<E4M3Numbers>(space, part, values);
    case StoredFormat::nvfp4:
    case StoredFormat::mxfp4: return write_values<E2M1Numbers>(space, part, values);
    case StoredFormat::int4:
    case StoredFormat::int4_asym: return write_values<Int4Numbers>(space, part, values);
    default: fail_invariant("values of a format whose elements do not lie in rows");
  }
}

}  // namespace refit::kernels
