#include "kernels/quantise_rows.hpp"

#include <algorithm>
#include <limits>

namespace refit::kernels {

namespace {

constexpr std::int64_t kMostColumns = 128;
constexpr std::int64_t kMxColumns = block_size(Quantiser::mxfp8).columns;

/// A value's bits without its sign, in a type whose maximum every vector unit has.
template <typename From>
REFIT_FORCEINLINE auto magnitude_of(const std::byte* values, std::int64_t index) {
  using Signed = std::make_signed_t<typename From::Bits>;
  return static_cast<Signed>(load<Signed>(values, index) & std::numeric_limits<Signed>::max());
}

/// Returns the float32 bits of a value that is not NaN.
template <typename From>
REFIT_FORCEINLINE std::uint32_t number_bits(typename From::Bits bits) {
  if constexpr (std::is_same_v<From, BF16>) return static_cast<std::uint32_t>(bits) << 16;
  return static_cast<std::uint32_t>(convert<From, F32>(bits));
}

template <typename From, typename Signed>
REFIT_FORCEINLINE std::uint32_t float_bits(Signed magnitude) {
  return static_cast<std::uint32_t>(convert<From, F32>(static_cast<typename From::Bits>(magnitude)));
}

/// Makes the magnitudes of the bytes of `count` numbers with a positive factor, in vectors of 32 bits.
template <typename From>
REFIT_FORCEINLINE void scale_numbers(const std::byte* values, std::int64_t count, float factor,
                                     std::uint16_t* magnitudes) {
  for (std::int64_t c = 0; c < count; ++c) {
    const std::uint32_t bits = number_bits<From>(load<typename From::Bits>(values, c)) & 0x7FFFFFFFU;
    const float scaled = std::bit_cast<float>(bits) * factor;
    magnitudes[c] = static_cast<std::uint16_t>(e4m3_magnitude(std::bit_cast<std::uint32_t>(scaled)));
  }
}

/// Joins them to the values' signs.
template <typename From>
REFIT_FORCEINLINE void store_signed(const std::byte* values, std::int64_t count, const std::uint16_t* magnitudes,
                                    std::byte* bytes) {
  using Bits = typename From::Bits;
  constexpr int kSign = 8 * static_cast<int>(sizeof(Bits)) - 1;
  for (std::int64_t c = 0; c < count; ++c) {
    const auto sign = static_cast<Bits>(load<Bits>(values, c) >> kSign << 7);
    store(bytes, c, static_cast<std::uint8_t>(magnitudes[c] | sign));
  }
}

template <typename From>
REFIT_FORCEINLINE std::uint32_t largest_of(const ValueRows& block) {
  using Signed = decltype(magnitude_of<From>(block.values, 0));
  Signed best[kMostColumns] = {};  // by column
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::byte* row = block.values + r * block.stride * static_cast<std::int64_t>(sizeof(Signed));
    for (std::int64_t c = 0; c < block.columns; ++c) best[c] = std::max(best[c], magnitude_of<From>(row, c));
  }
  Signed largest = 0;
  for (const Signed one : best) largest = std::max(largest, one);
  return float_bits<From>(largest);
}

template <typename From>
REFIT_FORCEINLINE void quantise_block(const ValueRows& block, float factor, std::byte* bytes, std::int64_t byte_stride,
                                      bool next) {
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  for (std::int64_t r = 0; r < block.rows; ++r) {
    const std::byte* row = block.values + r * block.stride * kSize;
    for (std::int64_t c = 0; next && c < block.columns * kSize; c += 64)
      __builtin_prefetch(row + block.columns * kSize + c);
    std::uint16_t magnitudes[kMostColumns];
    scale_numbers<From>(row, block.columns, factor, magnitudes);
    store_signed<From>(row, block.columns, magnitudes, bytes + r * byte_stride);
  }
}

/// Quantises a row in groups of blocks: their maxima, their scales, their bytes, each in a loop of its own.
template <typename From>
REFIT_FORCEINLINE void quantise_mx_row(Quantiser quantiser, const std::byte* values, std::int64_t blocks,
                                       std::byte* bytes, std::byte* scales, std::int64_t scale_stride) {
  using Signed = decltype(magnitude_of<From>(values, 0));
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  constexpr std::int64_t kGroup = 32;
  const std::uint32_t least = quantiser == Quantiser::mxfp8_nemo_rl ? 1U : 0U;  // otherwise they are alike
  for (std::int64_t first = 0; first < blocks; first += kGroup) {
    const std::int64_t count = std::min(kGroup, blocks - first);
    std::uint32_t amax[kGroup];
    std::uint32_t stored[kGroup];
    float factor[kGroup];
    std::uint32_t largest_factor = 0, largest_amax = 0;
    for (std::int64_t b = 0; b < count; ++b) {
      Signed largest = 0;
      for (std::int64_t c = 0; c < kMxColumns; ++c) {
        largest = std::max(largest, magnitude_of<From>(values, b * kMxColumns + c));
      }
      amax[b] = float_bits<From>(largest);
    }
    for (std::int64_t b = 0; b < count; ++b) {
      const BlockScale scale = block_scale(Quantiser::mxfp8, std::bit_cast<float>(amax[b]), From::kType);
      factor[b] = scale.factor;
      stored[b] = std::max(scale.stored, least);
      largest_factor = std::max(largest_factor, magnitude_bits(scale.factor));
      largest_amax = std::max(largest_amax, amax[b]);
    }
    for (std::int64_t b = 0; scales != nullptr && b < count; ++b) {
      store(scales, (first + b) * scale_stride, static_cast<std::uint8_t>(stored[b]));
    }
    if (largest_factor < kInfinityBits && largest_amax < kInfinityBits) {
      std::uint16_t magnitudes[kGroup * kMxColumns];
      for (std::int64_t b = 0; b < count; ++b) {
        scale_numbers<From>(values + b * kMxColumns * kSize, kMxColumns, factor[b], magnitudes + b * kMxColumns);
      }
      store_signed<From>(values, count * kMxColumns, magnitudes, bytes);
    } else {
      for (std::int64_t c = 0; c < count * kMxColumns; ++c) {
        const auto bits = static_cast<std::uint32_t>(convert<From, F32>(load<typename From::Bits>(values, c)));
        store(bytes, c, quantise_value(quantiser, std::bit_cast<float>(bits), factor[c / kMxColumns]));
      }
    }
    values += count * kMxColumns * kSize;
    bytes += count * kMxColumns;
  }
}

}  // namespace

#define REFIT_QUANTISE(FROM)                                                                                           \
  REFIT_HOST_VECTORS std::uint32_t largest_magnitude(FROM, const ValueRows& block) { return largest_of<FROM>(block); } \
  REFIT_HOST_VECTORS void quantise_rows(FROM, const ValueRows& block, float factor, std::byte* bytes,                  \
                                        std::int64_t byte_stride, bool next) {                                         \
    quantise_block<FROM>(block, factor, bytes, byte_stride, next);                                                     \
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
