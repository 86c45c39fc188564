#pragma once
// The inner loop of fingerprints on hosts: a row times its columns' keys, mod 2^64, without 64-bit vector products.
//
// A column's key C is written in five signed digits, so that the sum over columns of x' C, with x' = x - 2^15 a signed
// 16-bit number, is five sums of 16-bit products: every x86-64 has those in its vector unit (pmaddwd).

#include <cstddef>
#include <cstdint>

namespace refit::kernels {

/// Columns whose keys are kept together: 20 KiB of digits, less than a first-level cache.
inline constexpr std::int64_t kKeyBlock = 1024;

/// C = sum over d of digit d << kDigitShift[d], mod 2^64. The lower three digits have 11 bits: sixty products fit into
/// 32 bits. The upper two have 16 and their sums may wrap in 32 bits, since the lost bits are above 2^64.
inline constexpr std::size_t kDigits = 5;
inline constexpr std::size_t kNarrowDigits = 3;
inline constexpr int kDigitShift[kDigits] = {0, 11, 22, 33, 49};

/// The keys of a block of columns, for both sums of a fingerprint.
struct ColumnKeys {
  alignas(64) std::int16_t digits[2][kDigits][kKeyBlock];
  std::uint64_t total[2];  ///< sum of the keys

  /// The keys of columns first .. first + count - 1, count <= kKeyBlock.
  ColumnKeys(std::uint64_t name_hash, std::int64_t first, std::int64_t count);
};

/// Adds (sum over columns of x[c] C_k(c)) << shift to sums[k].
void add_column_sums(const std::uint16_t* x, std::int64_t count, const ColumnKeys& keys, int shift,
                     std::uint64_t* sums);

}  // namespace refit::kernels
