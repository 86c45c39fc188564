#include "kernels/merge.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/elementwise.hpp"
#include "kernels/launch.hpp"
#include "kernels/merge_rows.hpp"

namespace refit::kernels {

namespace {

/// An item's rows and columns on a host: A's part stays in a cache while the rows use it.
constexpr std::int64_t kItemRows = 32;
constexpr std::int64_t kItemColumns = 512;

/// Returns an element of a castable type.
REFIT_FUNCTION double value_of(DType dtype, const std::byte* data, std::int64_t index) {
  std::uint32_t bits = 0;
  if (dtype == DType::f32) bits = load<std::uint32_t>(data, index);
  if (dtype == DType::bf16) bits = f32_from_bf16(load<std::uint16_t>(data, index));
  if (dtype == DType::f16) bits = f32_from_f16(load<std::uint16_t>(data, index));
  return static_cast<double>(std::bit_cast<float>(bits));
}

/// Returns the value of a double rounded to a castable type.
REFIT_FUNCTION double rounded(double value, DType dtype) {
  const std::uint32_t bits = bits_from_double(value, dtype);
  if (dtype == DType::f32) return static_cast<double>(std::bit_cast<float>(bits));
  const auto half = static_cast<std::uint16_t>(bits);
  return static_cast<double>(std::bit_cast<float>(dtype == DType::bf16 ? f32_from_bf16(half) : f32_from_f16(half)));
}

/// The element at (box-linear index) of a merged weight.
template <typename Bits>
struct MergedElement {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  const std::byte* weight;
  const std::byte* a;
  const std::byte* b;
  DType weight_type, factor_type, out_type;
  std::int64_t row_stride, column_stride, a_stride, b_stride, columns, rank;
  double scaling;
  bool rounds_product;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits, std::int64_t, std::int64_t index) const {
    const std::int64_t row = index / columns;
    const std::int64_t column = index - row * columns;
    double sum = 0;
    for (std::int64_t k = 0; k < rank; ++k)
      sum += value_of(factor_type, b, row * b_stride + k) * value_of(factor_type, a, k * a_stride + column);
    const double value = value_of(weight_type, weight, row * row_stride + column * column_stride);
    if (rounds_product) return static_cast<Bits>(bits_from_double(value + rounded(scaling * sum, out_type), out_type));
    return static_cast<Bits>(bits_from_double(fma(scaling, sum, value), out_type));
  }
};

void merge_by_element(const ExecutionSpace& space, const std::string& label, const Merge& of) {
  const Shape shape{of.rows, of.columns};
  const Region region{of.out, of.out_type, Box::whole(shape), shape, row_major_strides(shape)};
  with_bits_of(of.out_type, [&](auto zero) {
    using Bits = decltype(zero);
    const MergedElement<Bits> visitor{of.weight,
                                      of.a,
                                      of.b,
                                      of.weight_type,
                                      of.factor_type,
                                      of.out_type,
                                      of.weight_strides[0],
                                      of.weight_strides[1],
                                      of.a_stride,
                                      of.b_stride,
                                      of.columns,
                                      of.rank,
                                      of.scaling,
                                      of.rounds_product};
    for_each_element<Bits>(space, label, region, visitor);
  });
}

/// Work on kItemRows x kItemColumns elements by one host thread.
struct HostMerge {
  Merge of;
  std::int64_t across = 0;  ///< items beside each other

  void operator()(std::int64_t item) const {
    const std::int64_t row = item / across * kItemRows;
    const std::int64_t column = item % across * kItemColumns;
    const std::int64_t columns = std::min(kItemColumns, of.columns - column);
    const auto size = static_cast<std::size_t>(columns);
    std::vector<double> a(static_cast<std::size_t>(of.rank) * size), b(static_cast<std::size_t>(of.rank)), sums(size),
        values(size);
    for (std::int64_t k = 0; k < of.rank; ++k) {
      widen(of.factor_type, of.a + (k * of.a_stride + column) * byte_size(of.factor_type), 1, columns,
            a.data() + k * columns);
    }
    for (std::int64_t r = row; r < std::min(row + kItemRows, of.rows); ++r) {
      widen(of.factor_type, of.b + r * of.b_stride * byte_size(of.factor_type), 1, of.rank, b.data());
      std::fill(sums.begin(), sums.end(), 0.0);
      for (std::int64_t k = 0; k < of.rank; ++k)
        add_scaled(b[static_cast<std::size_t>(k)], a.data() + k * columns, columns, sums.data());
      const std::int64_t at = r * of.weight_strides[0] + column * of.weight_strides[1];
      widen(of.weight_type, of.weight + at * byte_size(of.weight_type), of.weight_strides[1], columns, values.data());
      add_product(of.scaling, sums.data(), columns, values.data());
      std::byte* out = of.out + (r * of.columns + column) * byte_size(of.out_type);
      narrow(of.out_type, values.data(), columns, out);
    }
  }
};

/// Work on kTileRows x kTileColumns elements by a device's team: a lane has some rows of columns that its neighbours'
/// follow, so that what it widens of A and B serves several elements.
template <typename Factor>
struct DeviceMerge {
  static constexpr int kTileRows = 4;
  static constexpr int kLaneColumns = 4;
  static constexpr int kTileColumns = kLanes * kLaneColumns;
  Merge of;
  std::int64_t across = 0;  ///< tiles beside each other

  REFIT_FUNCTION static double widened(const std::byte* data, std::int64_t index) {
    const auto bits = load<typename Factor::Bits>(data, index);
    return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(convert<Factor, F32>(bits))));
  }

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const std::int64_t first_row = member.league_rank() / across * kTileRows;
    const std::int64_t first_column = member.league_rank() % across * kTileColumns + member.team_rank();
    std::int64_t rows[kTileRows], columns[kLaneColumns];  // beyond the last one: that one again
    REFIT_UNROLL
    for (int r = 0; r < kTileRows; ++r) rows[r] = first_row + r < of.rows ? first_row + r : of.rows - 1;
    REFIT_UNROLL
    for (int c = 0; c < kLaneColumns; ++c) {
      const std::int64_t column = first_column + c * kLanes;
      columns[c] = column < of.columns ? column : of.columns - 1;
    }
    // Loaded before anything is stored: a compiler cannot know that `out` is other memory.
    float weights[kTileRows][kLaneColumns];
    REFIT_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      REFIT_UNROLL
      for (int c = 0; c < kLaneColumns; ++c)
        weights[r][c] = static_cast<float>(
            value_of(of.weight_type, of.weight, rows[r] * of.weight_strides[0] + columns[c] * of.weight_strides[1]));
    }
    double sums[kTileRows][kLaneColumns] = {};
    for (std::int64_t k = 0; k < of.rank; ++k) {
      double a[kLaneColumns];
      REFIT_UNROLL
      for (int c = 0; c < kLaneColumns; ++c) a[c] = widened(of.a, k * of.a_stride + columns[c]);
      REFIT_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        const double b = widened(of.b, rows[r] * of.b_stride + k);
        REFIT_UNROLL
        for (int c = 0; c < kLaneColumns; ++c) sums[r][c] += b * a[c];
      }
    }
    REFIT_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      REFIT_UNROLL
      for (int c = 0; c < kLaneColumns; ++c) {
        const std::int64_t row = first_row + r;
        const std::int64_t column = first_column + c * kLanes;
        if (row < of.rows && column < of.columns) put(row, column, fma(of.scaling, sums[r][c], double{weights[r][c]}));
      }
    }
  }

  /// The same bits as bits_from_double. Rounding to BF16 goes by way of a float32 that remembers in its lowest bit that
  /// something was cut off, which a device does in a third of the time.
  REFIT_FUNCTION static std::uint32_t rounded_bits(double value, DType to) {
    if (to != DType::bf16 || value != value) return bits_from_double(value, to);
    const auto nearest = static_cast<float>(value);
    auto bits = std::bit_cast<std::uint32_t>(nearest);
    const auto back = static_cast<double>(nearest);
    if (back != value) {
      if (fabs(back) > fabs(value)) --bits;
      bits |= 1;
    }
    return bf16_from_f32(bits);
  }

  KOKKOS_INLINE_FUNCTION void put(std::int64_t row, std::int64_t column, double value) const {
    const std::uint32_t bits = rounded_bits(value, of.out_type);
    const std::int64_t at = row * of.columns + column;
    if (of.out_type == DType::f32) {
      store(of.out, at, bits);
    } else {
      store(of.out, at, static_cast<std::uint16_t>(bits));
    }
  }
};

/// A row by one host thread, straight from the matrices.
struct HostPlainRow {
  Merge of;

  void operator()(std::int64_t row) const {
    std::vector<double> sums(static_cast<std::size_t>(of.columns), 0.0);
    const std::int64_t size = byte_size(of.factor_type);
    for (std::int64_t k = 0; k < of.rank; ++k) {
      const double b = value_of(of.factor_type, of.b, row * of.b_stride + k);
      add_elements(of.factor_type, b, of.a + k * of.a_stride * size, of.columns, sums.data());
    }
    for (std::int64_t c = 0; c < of.columns; ++c) {
      const double value = value_of(of.weight_type, of.weight, row * of.weight_strides[0] + c * of.weight_strides[1]);
      const std::uint32_t bits =
          bits_from_double(std::fma(of.scaling, sums[static_cast<std::size_t>(c)], value), of.out_type);
      if (of.out_type == DType::f32) {
        store(of.out, row * of.columns + c, bits);
      } else {
        store(of.out, row * of.columns + c, static_cast<std::uint16_t>(bits));
      }
    }
  }
};

/// A value times a number, in float32.
template <typename Type>
struct Scale {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  const std::byte* source;
  float factor;
  KOKKOS_INLINE_FUNCTION typename Type::Bits operator()(typename Type::Bits, std::int64_t, std::int64_t index) const {
    const auto bits = load<typename Type::Bits>(source, index);
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(convert<Type, F32>(bits)));
    return convert<F32, Type>(std::bit_cast<std::uint32_t>(value * factor));
  }
};

/// By threads where kernels run on a host, which a device's compiler must not see, and by teams on a device.
template <bool kByThreads>
void merge_tiles(const ExecutionSpace& space, const std::string& label, const Merge& of) {
  if constexpr (kByThreads) {
    const std::int64_t across = ceil_div(of.columns, kItemColumns);
    for_each_item(space, label, ceil_div(of.rows, kItemRows) * across, HostMerge{of, across});
  } else {
    with_types(of.factor_type, DType::f32, [&](auto factor, auto) {
      using Tile = DeviceMerge<decltype(factor)>;
      const std::int64_t across = ceil_div(of.columns, std::int64_t{Tile::kTileColumns});
      for_each_team<2>(space, label, ceil_div(of.rows, std::int64_t{Tile::kTileRows}) * across, Tile{of, across});
    });
  }
}

/// Rows by threads likewise, and single elements on a device.
template <bool kByThreads>
void merge_simply(const ExecutionSpace& space, const std::string& label, const Merge& of) {
  if constexpr (kByThreads) {
    for_each_item(space, label, of.rows, HostPlainRow{of});
  } else {
    merge_by_element(space, label, of);
  }
}

}  // namespace

void merge(const ExecutionSpace& space, const Merge& of) {
  static const std::string label = "refit::merge";
  if (of.rows == 0 || of.columns == 0) return;
  if (of.rounds_product) return merge_by_element(space, label, of);
  merge_tiles<kOnHost>(space, label, of);
}

void merge_plainly(const ExecutionSpace& space, const Merge& of) {
  static const std::string label = "refit::merge_plainly";
  if (of.rows > 0 && of.columns > 0) merge_simply<kOnHost>(space, label, of);
}

void scale(const ExecutionSpace& space, const std::byte* source, std::byte* destination, DType dtype,
           std::int64_t count, float factor) {
  static const std::string label = "refit::scale";
  const Shape shape{count};
  const Region region{destination, dtype, Box::whole(shape), shape, row_major_strides(shape)};
  with_types(dtype, dtype, [&](auto type, auto) {
    using Type = decltype(type);
    for_each_element<typename Type::Bits>(space, label, region, Scale<Type>{source, factor});
  });
}

}  // namespace refit::kernels
