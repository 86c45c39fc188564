#include "kernels/quantise_rows.hpp"

#include <algorithm>
#include <limits>

namespace refit::kernels {

namespace {

constexpr std::int64_t kMxColumns = block_size(Quantiser::mxfp8).columns;

/// A value's bits without its sign, in a type whose maximum every vector unit has.
template <typename From>
REFIT_FORCEINLINE auto magnitude_of(const std::byte* values, std::int64_t index) {
  using Signed = std::make_signed_t<typename From::Bits>;
  return static_cast<Signed>(load<Signed>(values, index) & std::numeric_limits<Signed>::max());
}

template <typename From, typename Signed>
REFIT_FORCEINLINE std::uint32_t float_bits(Signed magnitude) {
  return static_cast<std::uint32_t>(convert<From, F32>(static_cast<typename From::Bits>(magnitude)));
}

template <typename From>
REFIT_FORCEINLINE void quantise_row(const std::byte* values, std::int64_t count, float factor, std::byte* bytes) {
  for (std::int64_t c = 0; c < count; ++c) {
    const auto bits = static_cast<std::uint32_t>(convert<From, F32>(load<typename From::Bits>(values, c)));
    store(bytes, c, e4m3_from_number(std::bit_cast<float>(bits) * factor));
  }
}

template <typename From>
REFIT_FORCEINLINE std::uint32_t largest_of(const ValueRows& block) {
  using Signed = decltype(magnitude_of<From>(block.values, 0));
  Signed best[128] = {};  // by column
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::byte* row = block.values + r * block.stride * static_cast<std::int64_t>(sizeof(Signed));
    for (std::int64_t c = 0; c < block.columns; ++c) best[c] = std::max(best[c], magnitude_of<From>(row, c));
  }
  Signed largest = 0;
  for (const Signed one : best) largest = std::max(largest, one);
  return float_bits<From>(largest);
}

template <typename From>
REFIT_FORCEINLINE void quantise_block(const ValueRows& block, float factor, std::byte* bytes,
                                      std::int64_t byte_stride) {
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  for (std::int64_t r = 0; r < block.rows; ++r) {
    quantise_row<From>(block.values + r * block.stride * kSize, block.columns, factor, bytes + r * byte_stride);
  }
}

/// Quantises a row in groups of blocks: their maxima, their scales, their bytes, each in a loop of its own.
template <typename From>
REFIT_FORCEINLINE void quantise_mx_row(Quantiser quantiser, const std::byte* values, std::int64_t blocks,
                                       std::byte* bytes, std::byte* scales, std::int64_t scale_stride) {
  using Signed = decltype(magnitude_of<From>(values, 0));
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  constexpr std::int64_t kGroup = 32;
  for (std::int64_t first = 0; first < blocks; first += kGroup) {
    const std::int64_t count = std::min(kGroup, blocks - first);
    std::uint32_t amax[kGroup];
    BlockScale scale[kGroup];
    for (std::int64_t b = 0; b < count; ++b) {
      Signed largest = 0;
      for (std::int64_t c = 0; c < kMxColumns; ++c) {
        largest = std::max(largest, magnitude_of<From>(values, b * kMxColumns + c));
      }
      amax[b] = float_bits<From>(largest);
    }
    for (std::int64_t b = 0; b < count; ++b) {
      scale[b] = block_scale(quantiser, std::bit_cast<float>(amax[b]), From::kType);
    }
    for (std::int64_t b = 0; scales != nullptr && b < count; ++b) {
      store(scales, (first + b) * scale_stride, static_cast<std::uint8_t>(scale[b].stored));
    }
    for (std::int64_t b = 0; b < count; ++b, values += kMxColumns * kSize, bytes += kMxColumns) {
      if (has_numbers(amax[b], scale[b])) {
        quantise_row<From>(values, kMxColumns, scale[b].factor, bytes);
      } else {
        for (std::int64_t c = 0; c < kMxColumns; ++c) {
          const auto bits = static_cast<std::uint32_t>(convert<From, F32>(load<typename From::Bits>(values, c)));
          store(bytes, c, quantise_value(quantiser, std::bit_cast<float>(bits), scale[b].factor));
        }
      }
    }
  }
}

}  // namespace

#define REFIT_QUANTISE(FROM)                                                                                           \
  REFIT_HOST_VECTORS std::uint32_t largest_magnitude(FROM, const ValueRows& block) { return largest_of<FROM>(block); } \
  REFIT_HOST_VECTORS void quantise_rows(FROM, const ValueRows& block, float factor, std::byte* bytes,                  \
                                        std::int64_t byte_stride) {                                                    \
    quantise_block<FROM>(block, factor, bytes, byte_stride);                                                           \
  }                                                                                                                    \
  REFIT_HOST_VECTORS void quantise_mx(FROM, Quantiser quantiser, const std::byte* values, std::int64_t blocks,         \
                                      std::byte* bytes, std::byte* scales, std::int64_t scale_stride) {                \
    quantise_mx_row<FROM>(quantiser, values, blocks, bytes, scales, scale_stride);                                     \
  }
REFIT_QUANTISE(F32)
REFIT_QUANTISE(F16)
REFIT_QUANTISE(BF16)
#undef REFIT_QUANTISE

}  // namespace refit::kernels
