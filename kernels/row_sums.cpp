#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/sum_row.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kBlock = 4096;
constexpr std::int64_t kElements = 64 * kBlock;
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

  void operator()(std::int64_t index) const {
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

constexpr int kWarp = 32;  ///< vector lanes of a thread: they share a row

/// Devices: the signs of the item's columns are written into the team's scratch memory first; then each thread's vector
/// lanes sum a row. One atomic per row and item.
template <typename From>
struct DeviceSums : SignedSums<From> {
  using Bits = typename From::Bits;
  static constexpr std::int64_t kScratch = kBlock * static_cast<std::int64_t>(sizeof(float));

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const Cut::Item item = this->pieces.item(this->rows, member.league_rank());
    auto* signs = static_cast<float*>(member.team_scratch(0).get_shmem(static_cast<int>(kScratch)));
    const auto columns = static_cast<int>(item.columns);
    Kokkos::parallel_for(Kokkos::TeamVectorRange(member, columns),
                         [&](int c) { signs[c] = this->sign_of(item.column + c); });
    member.team_barrier();
    for (std::int64_t r = item.row + member.team_rank(); r < item.row + item.rows; r += member.team_size()) {
      const std::byte* data = this->address(r, item.column);
      Counter sum = 0;
      Kokkos::parallel_reduce(
          Kokkos::ThreadVectorRange(member, columns),
          [&](int c, Counter& into) {
            const float value = value_of<From>(load<Bits>(data, c * this->rows.column_stride));
            into += fixed_point(value, signs[c]) - std::bit_cast<std::uint64_t>(kMagic);
          },
          sum);
      Kokkos::single(Kokkos::PerThread(member), [&]() { Kokkos::atomic_add(&this->sums[r], sum); });
    }
  }
};

}  // namespace

void signed_row_sums(const ExecutionSpace& space, const Region& region, std::uint64_t seed, std::int64_t* rows) {
  static const std::string label = "refit::signed_row_sums";
  REFIT_ASSERT(is_castable(region.dtype));
  const Rows all = rows_of(region);
  const Results sums(space, all.rows);
  with_types(region.dtype, region.dtype, [&](auto from, auto) {
    using From = decltype(from);
    if constexpr (kOnHost) {
      const Cut pieces = cut(all, kBlock, kElements);
      for_each_item(space, label, pieces.items, HostSums<From>{{all, pieces, seed, sums.data()}});
    } else {
      const Cut pieces = cut(all, kBlock, device_item_elements(all.rows * all.columns));
      for_each_team(space, label, pieces.items, DeviceSums<From>{{all, pieces, seed, sums.data()}},
                    DeviceSums<From>::kScratch, kWarp);
    }
  });
  const Counter* found = sums.wait();
  for (std::int64_t r = 0; r < all.rows; ++r) {
    rows[r] = static_cast<std::int64_t>(static_cast<std::uint64_t>(rows[r]) + found[r]);
  }
}

}  // namespace refit::kernels
