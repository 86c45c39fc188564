#include "kernels/bits.hpp"
#include "kernels/cast_rows.hpp"
#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

namespace {

// Hosts. A 64-bit product per element is slow without 64-bit vector multiplication. A column's key C is therefore
// written in five signed digits, and a row's sum of x' C (x' = x - 2^15, a signed 16-bit number) is five sums of 16-bit
// products, which every x86-64 has in its vector unit (pmaddwd). The digits of the upper 32 bits may wrap, since what
// they lose is above 2^64; the three lower ones have 11 bits, so that kFlush products fit into 32 bits.
constexpr int kBlock = 1024;  ///< columns: their keys take 20 KiB, less than a first-level cache
constexpr int kFlush = 256;
constexpr int kDigits = 5;
constexpr int kDigitShift[kDigits] = {0, 11, 22, 33, 49};

struct ColumnKeys {
  alignas(64) std::int16_t digits[2][kDigits][kBlock];
  std::uint64_t total[2] = {0, 0};
};

/// Cuts `bits` low bits off `rest` as a signed number.
std::int16_t next_digit(std::uint64_t& rest, int bits) {
  const std::uint64_t low = rest & ((1ULL << bits) - 1);
  const bool negative = (low >> (bits - 1)) != 0;
  rest = (rest >> bits) + (negative ? 1 : 0);
  return static_cast<std::int16_t>(static_cast<std::int64_t>(low) - (negative ? std::int64_t{1} << bits : 0));
}

void make_keys(std::uint64_t name_hash, std::int64_t first, std::int64_t count, ColumnKeys& keys) {
  for (int k = 0; k < 2; ++k) {
    for (std::int64_t c = 0; c < count; ++c) {
      std::uint64_t rest = column_key(name_hash, k, first + c);
      keys.total[k] += rest;
      for (int d = 0; d < 3; ++d) keys.digits[k][d][c] = next_digit(rest, 11);
      for (int d = 3; d < kDigits; ++d) keys.digits[k][d][c] = next_digit(rest, 16);
    }
  }
}

/// Adds to sums[k][d] the sums over columns of (x - 2^15) times digit d of the column's key k.
REFIT_HOST_VECTORS void add_products(const std::uint16_t* x, const ColumnKeys& keys, std::int64_t begin,
                                     std::int64_t count, std::int64_t (*sums)[kDigits]) {
  for (int k = 0; k < 2; ++k) {
    const std::int16_t* d0 = keys.digits[k][0] + begin;
    const std::int16_t* d1 = keys.digits[k][1] + begin;
    const std::int16_t* d2 = keys.digits[k][2] + begin;
    const std::int16_t* d3 = keys.digits[k][3] + begin;
    const std::int16_t* d4 = keys.digits[k][4] + begin;
    std::int32_t s0 = 0, s1 = 0, s2 = 0;
    std::uint32_t s3 = 0, s4 = 0;
    for (std::int64_t c = 0; c < count; ++c) {
      const auto value = static_cast<std::int16_t>(x[begin + c] ^ 0x8000U);
      s0 += value * d0[c];
      s1 += value * d1[c];
      s2 += value * d2[c];
      s3 += static_cast<std::uint32_t>(value * d3[c]);
      s4 += static_cast<std::uint32_t>(value * d4[c]);
    }
    sums[k][0] += s0;
    sums[k][1] += s1;
    sums[k][2] += s2;
    sums[k][3] += s3;
    sums[k][4] += s4;
  }
}

/// Adds to out[k] the sum over columns of x C_k, mod 2^64.
void add_row(const std::uint16_t* x, std::int64_t count, const ColumnKeys& keys, int shift, std::uint64_t* out) {
  std::int64_t sums[2][kDigits] = {};
  for (std::int64_t c = 0; c < count; c += kFlush) {
    add_products(x, keys, c, count - c < kFlush ? count - c : kFlush, sums);
  }
  for (int k = 0; k < 2; ++k) {
    std::uint64_t sum = keys.total[k] << 15;
    for (int d = 0; d < kDigits; ++d) sum += static_cast<std::uint64_t>(sums[k][d]) << kDigitShift[d];
    out[k] += sum << shift;
  }
}

/// The elements of a row as planes of 16 bits: plane p holds bits 16 p .. 16 p + 15 of the converted elements.
template <typename Bits>
void split(const Bits* values, std::int64_t count, std::uint16_t (*planes)[kBlock]) {
  constexpr std::size_t kPlanes = sizeof(Bits) > 2 ? sizeof(Bits) / 2 : 1;
  for (std::size_t p = 0; p < kPlanes; ++p) {
    for (std::int64_t c = 0; c < count; ++c) planes[p][c] = static_cast<std::uint16_t>(values[c] >> (16 * p));
  }
}

/// Identity on bits of any size, with the interface of a conversion.
template <typename B>
struct Plain {
  using Bits = B;
};

template <typename From, typename To>
KOKKOS_FORCEINLINE_FUNCTION typename To::Bits bits_as(typename From::Bits bits) {
  if constexpr (std::is_same_v<From, To>) {
    return bits;
  } else {
    return convert<From, To>(bits);
  }
}

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
    ColumnKeys keys;
    make_keys(name_hash, rows.first_column + item.column, item.columns, keys);
    std::uint64_t sums[2] = {0, 0};
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      std::uint64_t of_row[2] = {keys.total[0], keys.total[1]};  // the + 1 of every element
      add_elements(
          rows.data + (row.offset + item.column * rows.column_stride) * static_cast<std::int64_t>(sizeof(Source)),
          item.columns, keys, of_row);
      for (int k = 0; k < 2; ++k) sums[k] += row_key(name_hash, k, row.global) * of_row[k];
    }
    for (int k = 0; k < 2; ++k) Kokkos::atomic_fetch_add(&result[k], static_cast<Counter>(sums[k]));
  }

  void add_elements(const std::byte* data, std::int64_t count, const ColumnKeys& keys, std::uint64_t* out) const {
    if constexpr (std::is_same_v<From, To> && sizeof(Source) == 2) {
      const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(Source) == 0;
      if (rows.column_stride == 1 && aligned) {
        return add_row(reinterpret_cast<const std::uint16_t*>(data), count, keys, 0, out);
      }
    }
    alignas(64) Target values[kBlock];
    convert_row(data, count, values);
    alignas(64) std::uint16_t planes[kPlanes][kBlock];
    split(values, count, planes);
    for (std::size_t p = 0; p < kPlanes; ++p) add_row(planes[p], count, keys, static_cast<int>(16 * p), out);
  }

  void convert_row(const std::byte* data, std::int64_t count, Target* values) const {
    alignas(64) Source gathered[kBlock];
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

/// Devices: a lane keeps the keys of its column in registers and walks down the rows.
template <typename From, typename To>
struct DeviceFingerprint {
  Rows rows;
  Cut pieces;
  std::uint64_t name_hash;
  Counter* result;

  using Source = typename From::Bits;

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
        const std::uint64_t bits = bits_as<From, To>(load<Source>(rows.data, row.offset + c * rows.column_stride));
        sums[0] += row_key(name_hash, 0, row.global) * ((bits + 1) * low);
        sums[1] += row_key(name_hash, 1, row.global) * ((bits + 1) * high);
      }
    }
    for (int k = 0; k < 2; ++k) Kokkos::atomic_fetch_add(&result[k], static_cast<Counter>(sums[k]));
  }
};

template <bool on_host, typename From, typename To>
struct FingerprintFor {
  using Type = DeviceFingerprint<From, To>;
};
template <typename From, typename To>
struct FingerprintFor<true, From, To> {
  using Type = HostFingerprint<From, To>;
};

constexpr std::int64_t kFingerprintElements = 512 * kBlock;

template <typename From, typename To>
void launch(const ExecutionSpace& space, const Region& region, std::uint64_t name_hash, Counter* result) {
  static const std::string label = "refit::fingerprint";
  using Functor = typename FingerprintFor<kOnHost, From, To>::Type;
  const Rows rows = rows_of(region);
  const Cut pieces = cut(rows, kBlock, kFingerprintElements);
  for_each_item(space, label, pieces.items, Functor{rows, pieces, name_hash, result});
}

}  // namespace

void fingerprint(const ExecutionSpace& space, const Region& region, DType as, std::uint64_t name_hash, Sum128* result) {
  REFIT_ASSERT(region.dtype == as || (is_castable(region.dtype) && is_castable(as)));
  Results<Counter> sums(2);
  if (region.dtype != as) {
    with_types(region.dtype, as, [&](auto from, auto to) {
      launch<decltype(from), decltype(to)>(space, region, name_hash, sums.data());
    });
  } else {
    switch (byte_size(as)) {
      case 1: launch<Plain<std::uint8_t>, Plain<std::uint8_t>>(space, region, name_hash, sums.data()); break;
      case 2: launch<Plain<std::uint16_t>, Plain<std::uint16_t>>(space, region, name_hash, sums.data()); break;
      case 4: launch<Plain<std::uint32_t>, Plain<std::uint32_t>>(space, region, name_hash, sums.data()); break;
      default: launch<Plain<std::uint64_t>, Plain<std::uint64_t>>(space, region, name_hash, sums.data()); break;
    }
  }
  const Counter* found = sums.wait(space);
  *result += Sum128{found[0], found[1]};
}

}  // namespace refit::kernels
