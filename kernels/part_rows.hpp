#pragma once
// The inner loops of parts on hosts, over contiguous values.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/bits.hpp"
#include "kernels/part_steps.hpp"

namespace refit::kernels {

/// Most values of a stretch.
inline constexpr std::int64_t kStretch = 1024;

/// Some values of a row, at most kStretch in whole blocks, and where they are stored.
struct Stretch {
  const std::byte* values;
  std::int64_t count;
  std::int64_t block;  ///< values of a block
  Scaling by;          ///< where blocks have no scales of their own
  bool has_numbers;    ///< by them
  float tensor;        ///< the tensor's scale where blocks have scales
  std::byte* bytes;
  std::byte* scales;  ///< of the first block; null: not stored
  DType scale_dtype;
};

/// Returns the largest magnitude_bits of contiguous values.
std::uint32_t largest_magnitude(F32, const std::byte* values, std::int64_t count);
std::uint32_t largest_magnitude(F16, const std::byte* values, std::int64_t count);
std::uint32_t largest_magnitude(BF16, const std::byte* values, std::int64_t count);

/// Quantises a stretch.
#define REFIT_DECLARE(format, library)                                                                   \
  void quantise_stretch(PartSteps<StoredFormat::format, Library::library, F32>, const Stretch& stretch); \
  void quantise_stretch(PartSteps<StoredFormat::format, Library::library, F16>, const Stretch& stretch); \
  void quantise_stretch(PartSteps<StoredFormat::format, Library::library, BF16>, const Stretch& stretch);
REFIT_PART_QUANTISERS(REFIT_DECLARE)
#undef REFIT_DECLARE

template <typename From>
REFIT_FORCEINLINE float value_of(const std::byte* values, std::int64_t index) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(convert<From, F32>(load<typename From::Bits>(values, index))));
}

/// Returns the largest magnitude_bits; magnitudes are compared in a type whose maximum every vector unit has.
template <typename From>
REFIT_FORCEINLINE std::uint32_t largest_of(const std::byte* values, std::int64_t count) {
  using Signed = std::make_signed_t<typename From::Bits>;
  Signed largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto magnitude = static_cast<Signed>(load<Signed>(values, i) & std::numeric_limits<Signed>::max());
    largest = std::max(largest, magnitude);
  }
  return static_cast<std::uint32_t>(convert<From, F32>(static_cast<typename From::Bits>(largest)));
}

/// Quantises the values of a block, or of a stretch whose values share a scale.
template <typename Steps>
REFIT_FORCEINLINE void quantise_elements(const std::byte* values, std::int64_t count, const Scaling& by, bool numbers,
                                         std::uint8_t* elements) {
  using From = typename Steps::Type;
  if (numbers) {
    const Scaling plain = Steps::of_numbers(by);
    for (std::int64_t i = 0; i < count; ++i) {
      elements[i] = Steps::element_of_number(value_of<From>(values, i), plain);
    }
  } else {
    for (std::int64_t i = 0; i < count; ++i) elements[i] = Steps::element(value_of<From>(values, i), by);
  }
}

/// Packs an even number of nibbles.
REFIT_FORCEINLINE void pack_nibbles(const std::uint8_t* nibbles, std::int64_t count, std::byte* bytes) {
  const auto* pairs = reinterpret_cast<const std::byte*>(nibbles);
  for (std::int64_t i = 0; i < count / 2; ++i) {
    const std::uint32_t pair = load<std::uint16_t>(pairs, i);
    store(bytes, i, static_cast<std::uint8_t>(pair | pair >> 4));
  }
}

/// Quantises blocks of `block` values: their maxima, their scales, their elements, each in a loop of its own.
template <typename Steps>
REFIT_FORCEINLINE void quantise_blocks(const Stretch& of, std::int64_t block) {
  using From = typename Steps::Type;
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  constexpr std::int64_t kMostBlocks = kStretch / 16;
  const std::int64_t blocks = of.count / block;
  std::uint32_t amax[kMostBlocks];
  float multiplier[kMostBlocks];
  float divisor[kMostBlocks];
  std::uint32_t stored[kMostBlocks];
  std::uint8_t elements[kStretch];
  for (std::int64_t b = 0; b < blocks; ++b) amax[b] = largest_of<From>(of.values + b * block * kSize, block);
  for (std::int64_t b = 0; b < blocks; ++b) {
    const Scaling by = Steps::scaling(std::bit_cast<float>(amax[b]), of.tensor);
    multiplier[b] = by.multiplier;
    divisor[b] = by.divisor;
    stored[b] = is_int4(Steps::kFormat) ? stored_bits(by.stored) : by.byte;
  }
  for (std::int64_t b = 0; of.scales != nullptr && b < blocks; ++b) {
    if constexpr (is_int4(Steps::kFormat)) {
      store_number(of.scales, b, of.scale_dtype, std::bit_cast<float>(stored[b]));
    } else {
      store(of.scales, b, static_cast<std::uint8_t>(stored[b]));
    }
  }
  for (std::int64_t b = 0; b < blocks; ++b) {
    const Scaling by{.multiplier = multiplier[b], .divisor = divisor[b]};
    quantise_elements<Steps>(of.values + b * block * kSize, block, by, Steps::has_numbers(amax[b], by),
                             elements + b * block);
  }
  pack_nibbles(elements, of.count, of.bytes);
}

template <typename Steps>
REFIT_FORCEINLINE void quantise_typed(const Stretch& of) {
  if constexpr (!Steps::kHasBlocks) {
    std::uint8_t elements[kStretch];
    quantise_elements<Steps>(of.values, of.count, of.by, of.has_numbers, elements);
    __builtin_memcpy(of.bytes, elements, static_cast<std::size_t>(of.count));
  } else if constexpr (is_int4(Steps::kFormat)) {
    quantise_blocks<Steps>(of, of.block);
  } else {
    quantise_blocks<Steps>(of, block_size(Steps::kFormat, Library::vllm).columns);
  }
}

/// Defines quantise_stretch of a quantiser.
#define REFIT_DEFINE_STRETCH(format, library, from)                                                 \
  REFIT_HOST_VECTORS void quantise_stretch(PartSteps<StoredFormat::format, Library::library, from>, \
                                           const Stretch& stretch) {                                \
    quantise_typed<PartSteps<StoredFormat::format, Library::library, from>>(stretch);               \
  }
#define REFIT_DEFINE_STRETCHES(format, library) \
  REFIT_DEFINE_STRETCH(format, library, F32)    \
  REFIT_DEFINE_STRETCH(format, library, F16)    \
  REFIT_DEFINE_STRETCH(format, library, BF16)

}  // namespace refit::kernels
