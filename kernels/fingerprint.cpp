#include "kernels/cast_rows.hpp"
#include "kernels/column_sums.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/launch.hpp"
#include "kernels/transform.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kRowsAhead = 2;

/// The elements of a row as planes of 16 bits: plane p holds bits 16 p .. 16 p + 15 of the converted elements.
template <typename Bits>
void split(const Bits* values, std::int64_t count, std::uint16_t (*planes)[kKeyBlock]) {
  constexpr std::size_t kPlanes = sizeof(Bits) > 2 ? sizeof(Bits) / 2 : 1;
  for (std::size_t p = 0; p < kPlanes; ++p) {
    for (std::int64_t c = 0; c < count; ++c) planes[p][c] = static_cast<std::uint16_t>(values[c] >> (16 * p));
  }
}

/// What LaneFingerprint does to an element's bits.
template <typename From, typename To>
struct Cast {
  KOKKOS_INLINE_FUNCTION std::uint64_t operator()(typename From::Bits bits) const { return convert<From, To>(bits); }
};
template <typename From, typename To>
struct Transformed {
  Transform transform;
  KOKKOS_INLINE_FUNCTION std::uint64_t operator()(typename From::Bits bits) const {
    return transformed<From, To>(bits, transform);
  }
};

template <typename From, typename To>
struct HostFingerprint {
  Rows rows;
  Cut pieces;
  std::uint64_t name_hash;
  Counter* result;

  using Source = typename From::Bits;
  using Target = typename To::Bits;
  static constexpr std::size_t kPlanes = sizeof(Target) > 2 ? sizeof(Target) / 2 : 1;

  void operator()(std::int64_t index, int, int) const {
    const Cut::Item item = pieces.item(rows, index);
    const ColumnKeys keys(name_hash, rows.first_column + item.column, item.columns);
    std::uint64_t sums[2] = {0, 0};
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      if (r + kRowsAhead < item.row + item.rows) prefetch(address(r + kRowsAhead, item.column), item.columns);
      std::uint64_t of_row[2] = {keys.total[0], keys.total[1]};  // the + 1 of every element
      add_elements(address(r, item.column), item.columns, keys, of_row);
      for (int k = 0; k < 2; ++k) sums[k] += row_key(name_hash, k, row.global) * of_row[k];
    }
    for (int k = 0; k < 2; ++k) Kokkos::atomic_fetch_add(&result[k], static_cast<Counter>(sums[k]));
  }

  const std::byte* address(std::int64_t row, std::int64_t column) const {
    return rows.data + (rows.row(row).offset + column * rows.column_stride) * static_cast<std::int64_t>(sizeof(Source));
  }

  /// A block's rows lie far apart, which no hardware prefetcher follows.
  void prefetch(const std::byte* row, std::int64_t count) const {
    constexpr std::int64_t kLine = 64;
    if (rows.column_stride != 1) return;
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(Source));
    for (std::int64_t line = 0; line < bytes; line += kLine) __builtin_prefetch(row + line);
  }

  void add_elements(const std::byte* data, std::int64_t count, const ColumnKeys& keys, std::uint64_t* out) const {
    if constexpr (std::is_same_v<From, To> && sizeof(Source) == 2) {
      const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(Source) == 0;
      if (rows.column_stride == 1 && aligned) {
        return add_column_sums(reinterpret_cast<const std::uint16_t*>(data), count, keys, 0, out);
      }
    }
    alignas(64) Target values[kKeyBlock];
    convert_row(data, count, values);
    alignas(64) std::uint16_t planes[kPlanes][kKeyBlock];
    split(values, count, planes);
    for (std::size_t p = 0; p < kPlanes; ++p) add_column_sums(planes[p], count, keys, static_cast<int>(16 * p), out);
  }

  void convert_row(const std::byte* data, std::int64_t count, Target* values) const {
    alignas(64) Source gathered[kKeyBlock];
    if (rows.column_stride != 1) {
      for (std::int64_t c = 0; c < count; ++c) gathered[c] = load<Source>(data, c * rows.column_stride);
      data = reinterpret_cast<const std::byte*>(gathered);
    }
    if constexpr (std::is_same_v<From, To>) {
      __builtin_memcpy(values, data, static_cast<std::size_t>(count) * sizeof(Source));
    } else {
      cast_row(From{}, To{}, data, reinterpret_cast<std::byte*>(values), count);
    }
  }
};

/// Devices, and transformed values everywhere: a lane keeps the keys of its column in registers and walks down the
/// rows.
template <typename Source, typename Bits>
struct LaneFingerprint {
  Rows rows;
  Cut pieces;
  std::uint64_t name_hash;
  Counter* result;
  Bits bits_of;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, int lane, int lanes) const {
    const Cut::Item item = pieces.item(rows, index);
    std::uint64_t sums[2] = {0, 0};
    // Where a row is shorter than a team, the spare lanes take other rows.
    const int across = item.columns < lanes ? static_cast<int>(item.columns) : lanes;
    const int down = lanes / across;
    if (lane >= across * down) return;
    for (std::int64_t c = item.column + lane % across; c < item.column + item.columns; c += across) {
      const std::uint64_t low = column_key(name_hash, 0, rows.first_column + c);
      const std::uint64_t high = column_key(name_hash, 1, rows.first_column + c);
      for (std::int64_t r = item.row + lane / across; r < item.row + item.rows; r += down) {
        const Rows::Row row = rows.row(r);
        const std::uint64_t bits = bits_of(load<Source>(rows.data, row.offset + c * rows.column_stride));
        sums[0] += row_key(name_hash, 0, row.global) * ((bits + 1) * low);
        sums[1] += row_key(name_hash, 1, row.global) * ((bits + 1) * high);
      }
    }
    for (int k = 0; k < 2; ++k) Kokkos::atomic_fetch_add(&result[k], static_cast<Counter>(sums[k]));
  }
};

constexpr std::int64_t kFingerprintElements = 512 * kKeyBlock;

/// Launches a fingerprint: make(rows, pieces) is its functor.
template <typename Make>
void launch(const ExecutionSpace& space, const Region& region, const Make& make) {
  static const std::string label = "refit::fingerprint";
  const Rows rows = rows_of(region);
  const Cut pieces = cut(rows, kKeyBlock, kFingerprintElements);
  for_each_item(space, label, pieces.items, make(rows, pieces));
}

template <typename From, typename To>
void launch_cast(const ExecutionSpace& space, const Region& region, std::uint64_t name_hash, Counter* result) {
  launch(space, region, [=](const Rows& rows, const Cut& pieces) {
    if constexpr (kOnHost) {
      return HostFingerprint<From, To>{rows, pieces, name_hash, result};
    } else {
      return LaneFingerprint<typename From::Bits, Cast<From, To>>{rows, pieces, name_hash, result, {}};
    }
  });
}

template <typename From, typename To>
void launch_transformed(const ExecutionSpace& space, const Region& region, Transform transform, std::uint64_t name_hash,
                        Counter* result) {
  launch(space, region, [=](const Rows& rows, const Cut& pieces) {
    return LaneFingerprint<typename From::Bits, Transformed<From, To>>{rows, pieces, name_hash, result, {transform}};
  });
}

}  // namespace

void fingerprint(const ExecutionSpace& space, const Region& region, DType as, Transform transform,
                 std::uint64_t name_hash, Sum128* result) {
  const bool is_plain = region.dtype == as && transform == Transform::none;
  REFIT_ASSERT(is_plain || (is_castable(region.dtype) && is_castable(as)));
  Results<Counter> sums(2);
  Counter* into = sums.data();
  if (transform != Transform::none) {
    with_types(region.dtype, as, [&](auto from, auto to) {
      launch_transformed<decltype(from), decltype(to)>(space, region, transform, name_hash, into);
    });
  } else if (!is_plain) {
    with_types(region.dtype, as,
               [&](auto from, auto to) { launch_cast<decltype(from), decltype(to)>(space, region, name_hash, into); });
  } else {
    with_bits_of(as, [&](auto zero) {
      using Bits = decltype(zero);
      launch_cast<Plain<Bits>, Plain<Bits>>(space, region, name_hash, into);
    });
  }
  const Counter* found = sums.wait(space);
  *result += Sum128{found[0], found[1]};
}

}  // namespace refit::kernels
