#pragma once
// Blocks of values through the kernels' steps, as a kernel goes through them.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "kernels/fp8_scaled.hpp"
#include "kernels/int4.hpp"
#include "kernels/mxfp4.hpp"
#include "kernels/nvfp4.hpp"
#include "support/format_reference.hpp"

namespace refit::formats_test {

using format_reference::Block;
using format_reference::Quantised;

inline constexpr StoredFormat kFormats[] = {StoredFormat::nvfp4,       StoredFormat::mxfp4, StoredFormat::fp8_tensor,
                                            StoredFormat::fp8_channel, StoredFormat::int4,  StoredFormat::int4_asym,
                                            StoredFormat::gptq,        StoredFormat::awq};

/// The largest magnitude, compared as integers: NaN is the largest.
inline float amax_of(std::span<const float> values) {
  std::uint32_t amax = 0;
  for (float value : values) amax = std::max(amax, kernels::magnitude_bits(value));
  return std::bit_cast<float>(amax);
}

inline Quantised int4_by_steps(const Block& block) {
  float least = block.values[0];
  float greatest = block.values[0];
  for (float value : block.values) {
    least = kernels::lesser(least, value);
    greatest = kernels::greater(greatest, value);
  }
  const kernels::Int4Scaling by = kernels::int4_scaling(block.format, least, greatest, block.from);
  Quantised result{.scale = by.scale, .zero = by.zero};
  for (float value : block.values) {
    result.elements.push_back(kernels::int4_nibble(block.format, value, by, block.from));
  }
  return result;
}

inline kernels::Scaling nvfp4_by_steps(const Block& block, Quantised& result) {
  result.tensor = kernels::nvfp4_tensor_scale(block.library, block.tensor_amax, block.from);
  const std::uint8_t byte = kernels::nvfp4_block_scale(block.library, amax_of(block.values), result.tensor, block.from);
  return kernels::nvfp4_scaling(block.library, byte, result.tensor);
}

inline Quantised by_steps(const Block& block) {
  const auto [format, library, from] = std::tuple(block.format, block.library, block.from);
  if (is_int4(format)) return int4_by_steps(block);
  Quantised result;
  result.elements.reserve(block.values.size());
  kernels::Scaling by;
  if (format == StoredFormat::nvfp4) by = nvfp4_by_steps(block, result);
  if (format == StoredFormat::mxfp4) by = kernels::mxfp4_scaling(library, amax_of(block.values));
  if (element_bits(format) == 8) by = kernels::fp8_scaling(library, amax_of(block.values), from);
  for (float value : block.values) {
    std::uint8_t element = 0;
    if (format == StoredFormat::nvfp4) element = kernels::nvfp4_nibble(library, value, by, from);
    if (format == StoredFormat::mxfp4) element = kernels::mxfp4_nibble(library, value, by, from);
    if (element_bits(format) == 8) element = kernels::fp8_byte(format, library, value, by, from);
    result.elements.push_back(element);
  }
  result.scale = by.stored;
  result.byte = by.byte;
  return result;
}

/// Equal bits; NaN equals NaN.
inline bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (a != a && b != b);
}

/// Returns "" or what differs first.
inline std::string difference(const Block& block, const Quantised& found, const Quantised& expected) {
  if (!same(found.tensor, expected.tensor)) {
    return fmt::format("tensor's scale {}, not {}", found.tensor, expected.tensor);
  }
  if (!same(found.scale, expected.scale)) return fmt::format("scale {}, not {}", found.scale, expected.scale);
  if (found.byte != expected.byte) return fmt::format("byte {:#x}, not {:#x}", found.byte, expected.byte);
  if (found.zero != expected.zero) return fmt::format("zero {}, not {}", found.zero, expected.zero);
  for (std::size_t i = 0; i < expected.elements.size(); ++i) {
    if (found.elements[i] == expected.elements[i]) continue;
    return fmt::format("element {} ({:a}): {:#x}, not {:#x}; scale {:a} {:#x}", i, block.values[i], found.elements[i],
                       expected.elements[i], expected.scale, expected.byte);
  }
  return "";
}

}  // namespace refit::formats_test
