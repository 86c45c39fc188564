#pragma once
// The inner loops of quantised copies on hosts, over contiguous rows.

#include <cstddef>
#include <cstdint>

#include "kernels/bits.hpp"
#include "kernels/quantiser.hpp"

namespace refit::kernels {

/// A rectangle of values, `stride` elements from row to row; need not be aligned.
struct ValueRows {
  const std::byte* values;
  std::int64_t stride, rows, columns;
};

/// Returns the largest magnitude_bits of at most 128 columns.
std::uint32_t largest_magnitude(F32, const ValueRows& block);
std::uint32_t largest_magnitude(F16, const ValueRows& block);
std::uint32_t largest_magnitude(BF16, const ValueRows& block);

/// Stores the bytes of a block where no product is NaN (has_numbers), `byte_stride` from row to row. With `next` the
/// block on its right is read next: its rows lie far apart, which no hardware prefetcher follows.
void quantise_rows(F32, const ValueRows& block, float factor, std::byte* bytes, std::int64_t byte_stride, bool next);
void quantise_rows(F16, const ValueRows& block, float factor, std::byte* bytes, std::int64_t byte_stride, bool next);
void quantise_rows(BF16, const ValueRows& block, float factor, std::byte* bytes, std::int64_t byte_stride, bool next);

/// Quantises a row of whole 1 x 32 blocks: bytes, and scales (null: none) that are `scale_stride` apart.
void quantise_mx(F32, Quantiser quantiser, const std::byte* values, std::int64_t blocks, std::byte* bytes,
                 std::byte* scales, std::int64_t scale_stride);
void quantise_mx(F16, Quantiser quantiser, const std::byte* values, std::int64_t blocks, std::byte* bytes,
                 std::byte* scales, std::int64_t scale_stride);
void quantise_mx(BF16, Quantiser quantiser, const std::byte* values, std::int64_t blocks, std::byte* bytes,
                 std::byte* scales, std::int64_t scale_stride);

}  // namespace refit::kernels
