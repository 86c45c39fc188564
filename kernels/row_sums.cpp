#include <algorithm>
#include <bit>

#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/quantiser.hpp"
#include "kernels/sum_row.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kBlock = 4096;
constexpr std::int64_t kElements = 64 * kBlock;

/// The values of a region's rows, as they are stored.
template <typename From>
struct PlainValues {
  Rows rows;

  using Bits = typename From::Bits;

  /// Row `index`, from column `first` on.
  struct Row {
    const std::byte* data;
    std::int64_t step;
    KOKKOS_INLINE_FUNCTION float operator[](std::int64_t column) const {
      return value_of<From>(load<Bits>(data, column * step));
    }
  };
  KOKKOS_INLINE_FUNCTION Row row(std::int64_t index, std::int64_t first) const {
    const std::int64_t element = rows.row(index).offset + first * rows.column_stride;
    return {rows.data + element * static_cast<std::int64_t>(sizeof(Bits)), rows.column_stride};
  }

  /// Hosts: the sum of `count` of a row's values times their signs.
  std::uint64_t sum_of(const Row& row, const float* signs, std::int64_t count) const {
    if (row.step == 1) return sum_row(From{}, row.data, signs, count);
    alignas(64) Bits values[kBlock];
    for (std::int64_t c = 0; c < count; ++c) values[c] = load<Bits>(row.data, c * row.step);
    return sum_row(From{}, reinterpret_cast<const std::byte*>(values), signs, count);
  }
};

/// The values of E4M3 bytes with scales.
struct ScaledValues {
  Rows rows;
  const std::byte* scales;
  bool is_e8m0;
  std::int64_t stride[3];  ///< of scales, by dimension of `rows`: matrices, then blocks of rows
  std::int64_t column_stride;
  std::int64_t first_row;       ///< the region's, in its matrix
  int row_shift, column_shift;  ///< block sizes are powers of two

  ScaledValues(const Region& region, const BlockScales& of)
      : rows(rows_of(region)), scales(of.data), is_e8m0(of.dtype == DType::u8), stride{0, 0, 0} {
    const int last = region.shape.size() - 1;
    REFIT_ASSERT(region.dtype == DType::f8_e4m3 && last >= 1);
    REFIT_ASSERT(of.dtype == DType::f32 || of.dtype == DType::u8);
    REFIT_ASSERT(of.strides.size() == region.shape.size());
    for (int d = 0; d < last; ++d) stride[d + 3 - last] = of.strides[d];
    column_stride = of.strides[last];
    first_row = region.box.lower[last - 1];
    const auto shift_of = [](std::int64_t size) {
      REFIT_ASSERT(size > 0 && std::has_single_bit(static_cast<std::uint64_t>(size)));
      return std::countr_zero(static_cast<std::uint64_t>(size));
    };
    row_shift = shift_of(of.block.rows);
    column_shift = shift_of(of.block.columns);
  }

  struct Row {
    const std::byte* data;
    std::int64_t step;
    const std::byte* scales;  ///< of the region's first block in this row
    bool is_e8m0;
    std::int64_t scale_step;
    std::int64_t first;  ///< column in the tensor of data[0]
    std::int64_t first_block;
    int column_shift;

    KOKKOS_INLINE_FUNCTION float scale(std::int64_t block) const {
      const std::int64_t at = (block - first_block) * scale_step;
      return is_e8m0 ? f32_from_e8m0(load<std::uint8_t>(scales, at)) : load<float>(scales, at);
    }
    KOKKOS_INLINE_FUNCTION float operator[](std::int64_t column) const {
      return f32_from_e4m3(load<std::uint8_t>(data, column * step)) * scale((first + column) >> column_shift);
    }
  };
  KOKKOS_INLINE_FUNCTION Row row(std::int64_t index, std::int64_t first) const {
    const std::int64_t matrix = index / rows.extent[2];
    const std::int64_t block = ((first_row + index % rows.extent[2]) >> row_shift) - (first_row >> row_shift);
    const std::int64_t scale =
        matrix / rows.extent[1] * stride[0] + matrix % rows.extent[1] * stride[1] + block * stride[2];
    return {rows.data + rows.row(index).offset + first * rows.column_stride,
            rows.column_stride,
            scales + scale * (is_e8m0 ? 1 : 4),
            is_e8m0,
            column_stride,
            rows.first_column + first,
            rows.first_column >> column_shift,
            column_shift};
  }

  std::uint64_t sum_of(const Row& row, const float* signs, std::int64_t count) const {
    alignas(64) float values[kBlock];
    for (std::int64_t c = 0; c < count;) {
      const std::int64_t block = (row.first + c) >> column_shift;
      const std::int64_t end = std::min(count, ((block + 1) << column_shift) - row.first);
      if (row.step == 1) {
        scale_bytes(row.data + c, row.scale(block), end - c, values + c);
      } else {
        for (std::int64_t i = c; i < end; ++i) values[i] = row[i];
      }
      c = end;
    }
    return sum_row(F32{}, reinterpret_cast<const std::byte*>(values), signs, count);
  }
};

template <typename Values>
struct SignedSums {
  Values values;
  Cut pieces;
  std::uint64_t seed;
  Counter* sums;

  KOKKOS_INLINE_FUNCTION float sign_of(std::int64_t column) const {
    return static_cast<float>(sign(seed, values.rows.first_column + column));
  }
};

template <typename Values>
struct HostSums : SignedSums<Values> {
  void operator()(std::int64_t index) const {
    const Cut::Item item = this->pieces.item(this->values.rows, index);
    alignas(64) float signs[kBlock];
    for (std::int64_t c = 0; c < item.columns; ++c) signs[c] = this->sign_of(item.column + c);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const std::uint64_t sum = this->values.sum_of(this->values.row(r, item.column), signs, item.columns);
      add_on_host(&this->sums[r], static_cast<Counter>(sum));
    }
  }
};

constexpr int kWarp = 32;  ///< vector lanes of a thread: they share a row

/// Devices: the signs of the item's columns are written into the team's scratch memory first; then each thread's vector
/// lanes sum a row. One atomic per row and item.
template <typename Values>
struct DeviceSums : SignedSums<Values> {
  static constexpr std::int64_t kScratch = kBlock * static_cast<std::int64_t>(sizeof(float));

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const Cut::Item item = this->pieces.item(this->values.rows, member.league_rank());
    auto* signs = static_cast<float*>(member.team_scratch(0).get_shmem(static_cast<int>(kScratch)));
    const auto columns = static_cast<int>(item.columns);
    Kokkos::parallel_for(Kokkos::TeamVectorRange(member, columns),
                         [&](int c) { signs[c] = this->sign_of(item.column + c); });
    member.team_barrier();
    for (std::int64_t r = item.row + member.team_rank(); r < item.row + item.rows; r += member.team_size()) {
      const auto row = this->values.row(r, item.column);
      Counter sum = 0;
      Kokkos::parallel_reduce(
          Kokkos::ThreadVectorRange(member, columns),
          [&](int c, Counter& into) { into += fixed_point(row[c], signs[c]) - std::bit_cast<std::uint64_t>(kMagic); },
          sum);
      Kokkos::single(Kokkos::PerThread(member), [&]() { Kokkos::atomic_add(&this->sums[r], sum); });
    }
  }
};

template <typename Values>
void add_sums(const ExecutionSpace& space, const Values& values, std::uint64_t seed, std::int64_t* rows) {
  static const std::string label = "refit::signed_row_sums";
  const Rows& all = values.rows;
  const Results sums(space, all.rows);
  if constexpr (kOnHost) {
    const Cut pieces = cut(all, kBlock, kElements);
    for_each_item(space, label, pieces.items, HostSums<Values>{{values, pieces, seed, sums.data()}});
  } else {
    const Cut pieces = cut(all, kBlock, device_item_elements(all.rows * all.columns));
    for_each_team(space, label, pieces.items, DeviceSums<Values>{{values, pieces, seed, sums.data()}},
                  DeviceSums<Values>::kScratch, kWarp);
  }
  const Counter* found = sums.wait();
  for (std::int64_t r = 0; r < all.rows; ++r) {
    rows[r] = static_cast<std::int64_t>(static_cast<std::uint64_t>(rows[r]) + found[r]);
  }
}

}  // namespace

void signed_row_sums(const ExecutionSpace& space, const Region& region, std::uint64_t seed, std::int64_t* rows) {
  REFIT_ASSERT(is_castable(region.dtype));
  with_types(region.dtype, region.dtype,
             [&](auto from, auto) { add_sums(space, PlainValues<decltype(from)>{rows_of(region)}, seed, rows); });
}

void signed_row_sums(const ExecutionSpace& space, const Region& region, const BlockScales& scales, std::uint64_t seed,
                     std::int64_t* rows) {
  add_sums(space, ScaledValues(region, scales), seed, rows);
}

}  // namespace refit::kernels
