#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kBlock = 4096;
constexpr std::int64_t kElements = 64 * kBlock;
constexpr float kLimit = 0x1p39F;
constexpr double kMagic = 0x1.8p52;  ///< adding it rounds to an integer, nearest even, and leaves it in the low bits

KOKKOS_FORCEINLINE_FUNCTION std::uint64_t fixed_point(float value, float sign_of_column) {
  const float scaled = value * 0x1p24F;                   // exact
  const float below = scaled < kLimit ? scaled : kLimit;  // NaN too
  const float bounded = below > -kLimit ? below : -kLimit;
  return std::bit_cast<std::uint64_t>(static_cast<double>(bounded * sign_of_column) + kMagic);
}

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION float value_of(typename From::Bits bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(bits)));
}

#define REFIT_SUM_ROW(FROM)                                                                                       \
  REFIT_HOST_VECTORS std::uint64_t sum_row(FROM, const std::byte* data, const float* signs, std::int64_t count) { \
    std::uint64_t sum = 0;                                                                                        \
    for (std::int64_t c = 0; c < count; ++c) {                                                                    \
      sum += fixed_point(value_of<FROM>(load<FROM::Bits>(data, c)), signs[c]);                                    \
    }                                                                                                             \
    return sum - static_cast<std::uint64_t>(count) * std::bit_cast<std::uint64_t>(kMagic);                        \
  }
REFIT_SUM_ROW(F32)
REFIT_SUM_ROW(F16)
REFIT_SUM_ROW(BF16)
#undef REFIT_SUM_ROW

template <typename From>
struct SignedSums {
  Rows rows;
  Cut pieces;
  std::uint64_t seed;
  Counter* sums;

  using Bits = typename From::Bits;

  KOKKOS_INLINE_FUNCTION const std::byte* address(std::int64_t row, std::int64_t column) const {
    return rows.data + (rows.row(row).offset + column * rows.column_stride) * static_cast<std::int64_t>(sizeof(Bits));
  }
  KOKKOS_INLINE_FUNCTION float sign_of(std::int64_t column) const {
    return static_cast<float>(sign(seed, rows.first_column + column));
  }
};

template <typename From>
struct HostSums : SignedSums<From> {
  using Bits = typename From::Bits;

  void operator()(std::int64_t index, int, int) const {
    const Cut::Item item = this->pieces.item(this->rows, index);
    alignas(64) float signs[kBlock];
    for (std::int64_t c = 0; c < item.columns; ++c) signs[c] = this->sign_of(item.column + c);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const std::uint64_t sum = sum_of(this->address(r, item.column), signs, item.columns);
      Kokkos::atomic_fetch_add(&this->sums[r], static_cast<Counter>(sum));
    }
  }

  std::uint64_t sum_of(const std::byte* data, const float* signs, std::int64_t count) const {
    if (this->rows.column_stride == 1) return sum_row(From{}, data, signs, count);
    alignas(64) Bits values[kBlock];
    for (std::int64_t c = 0; c < count; ++c) values[c] = load<Bits>(data, c * this->rows.column_stride);
    return sum_row(From{}, reinterpret_cast<const std::byte*>(values), signs, count);
  }
};

/// Devices: each lane sums its columns of a row; one atomic per lane and row.
template <typename From>
struct DeviceSums : SignedSums<From> {
  using Bits = typename From::Bits;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, int lane, int lanes) const {
    const Cut::Item item = this->pieces.item(this->rows, index);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      std::uint64_t sum = 0;
      for (std::int64_t c = item.column + lane; c < item.column + item.columns; c += lanes) {
        const float value = value_of<From>(load<Bits>(this->address(r, c), 0));
        sum += fixed_point(value, this->sign_of(c)) - std::bit_cast<std::uint64_t>(kMagic);
      }
      if (sum != 0) Kokkos::atomic_fetch_add(&this->sums[r], static_cast<Counter>(sum));
    }
  }
};

template <bool on_host, typename From>
struct SumsFor {
  using Type = DeviceSums<From>;
};
template <typename From>
struct SumsFor<true, From> {
  using Type = HostSums<From>;
};

}  // namespace

void signed_row_sums(const ExecutionSpace& space, const Region& region, std::uint64_t seed, std::int64_t* rows) {
  static const std::string label = "refit::signed_row_sums";
  REFIT_ASSERT(is_castable(region.dtype));
  const Rows all = rows_of(region);
  const Cut pieces = cut(all, kBlock, kElements);
  Results<Counter> sums(all.rows);
  with_types(region.dtype, region.dtype, [&](auto from, auto) {
    using Functor = typename SumsFor<kOnHost, decltype(from)>::Type;
    for_each_item(space, label, pieces.items, Functor{{all, pieces, seed, sums.data()}});
  });
  const Counter* found = sums.wait(space);
  for (std::int64_t r = 0; r < all.rows; ++r) {
    rows[r] = static_cast<std::int64_t>(static_cast<std::uint64_t>(rows[r]) + found[r]);
  }
}

}  // namespace refit::kernels
