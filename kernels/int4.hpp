#pragma once
// INT4 with a scale for each group of a row's columns, in two steps that hosts and devices compute to the same bits:
//
//   int4_scaling(least, greatest)   the scale and zero point of a group
//   int4_nibble(value, that)        one value's nibble
//
// An element is (nibble - zero point) * scale; without zero points theirs is 8. E.g. gptq, values -8 .. 3: the scale is
// 1, 3 becomes nibble 11. int4_place and int4_zero_place say where nibbles lie.

#include "kernels/scaling.hpp"

namespace refit::kernels {

/// A group's scale, and the nibble of zero.
struct Int4Scaling {
  float scale = 0.0F;
  int zero = 8;
};

/// Returns the nearest integer, even at ties; |value| is below 2^22, or the result 0.
REFIT_FUNCTION int nearest_integer(float value) {
  if (!(std::bit_cast<float>(magnitude_bits(value)) < 0x1p22F)) return 0;
  const float magic = value + 0x1.8p23F;
  return static_cast<int>(std::bit_cast<std::uint32_t>(magic) - 0x4B400000U);
}

REFIT_FUNCTION float bounded(float value, float least, float greatest) {
  return value < least ? least : value > greatest ? greatest : value;
}

/// Return the lesser and the greater of two values, NaN if one is NaN: a group's least and greatest are made with them.
REFIT_FUNCTION float lesser(float a, float b) { return b != b || b < a ? b : a; }
REFIT_FUNCTION float greater(float a, float b) { return b != b || b > a ? b : a; }

/// compressed-tensors' calculate_qparams of 4-bit integers.
REFIT_FUNCTION Int4Scaling compressed_tensors_int4_scaling(bool has_zero, float least, float greatest, DType from) {
  const float low = least > 0.0F ? 0.0F : least;
  const float high = greatest < 0.0F ? 0.0F : greatest;
  if (!has_zero) {
    const float amax = -low > high ? -low : high;
    const float scale = rounded_to(from, amax / 7.5F);
    return {scale == 0.0F ? epsilon(from) : scale, 8};
  }
  const float range = rounded_to(from, high - low);
  const float scale = rounded_to(from, range / 15.0F);
  const float ratio = rounded_to(from, low / scale);
  const float zero = bounded(rounded_to(from, -8.0F - ratio), -8.0F, 7.0F);
  return {scale == 0.0F ? epsilon(from) : scale, nearest_integer(zero) + 8};
}

/// vLLM's quantize_weights of uint4b8 (gptq) and of uint4 with zero points (awq).
REFIT_FUNCTION Int4Scaling vllm_int4_scaling(bool has_zero, float least, float greatest, DType from) {
  if (!has_zero) {
    const float high = std::bit_cast<float>(magnitude_bits(rounded_to(from, greatest / 7.0F)));
    const float low = std::bit_cast<float>(magnitude_bits(rounded_to(from, least / -8.0F)));
    return {greater(low, high), 8};
  }
  const float smallest = rounded_to(from, 1e-5F);
  const float range = rounded_to(from, greatest - least);
  const float scale = rounded_to(from, (range < smallest ? smallest : range) / 15.0F);
  const float zero = std::bit_cast<float>(magnitude_bits(rounded_to(from, least / scale)));
  return {scale, nearest_integer(bounded(zero, 0.0F, 15.0F))};
}

/// Step 1: returns a group's scale from its least and greatest value; int4, int4_asym, gptq or awq.
REFIT_FUNCTION Int4Scaling int4_scaling(StoredFormat format, float least, float greatest, DType from) {
  const bool of_vllm = format == StoredFormat::gptq || format == StoredFormat::awq;
  if (of_vllm) return vllm_int4_scaling(format == StoredFormat::awq, least, greatest, from);
  return compressed_tensors_int4_scaling(format == StoredFormat::int4_asym, least, greatest, from);
}

/// Step 2: returns the nibble of a value of type `from`.
REFIT_FUNCTION std::uint8_t int4_nibble(StoredFormat format, float value, const Int4Scaling& by, DType from) {
  const float ratio = rounded_to(from, value / by.scale);
  if (format == StoredFormat::gptq || format == StoredFormat::awq) {
    const int integer = nearest_integer(bounded(ratio, -16.0F, 16.0F)) + by.zero;
    return static_cast<std::uint8_t>(integer < 0 ? 0 : integer > 15 ? 15 : integer);
  }
  const float shifted = rounded_to(from, ratio + static_cast<float>(by.zero - 8));
  return static_cast<std::uint8_t>(nearest_integer(bounded(shifted, -8.0F, 7.0F)) + 8);
}

/// Where a nibble lies: word `word` of an int32 tensor, bits 4 * index ...
struct NibblePlace {
  std::int64_t word = 0;
  int index = 0;

  REFIT_FUNCTION std::uint32_t of(std::uint32_t word_bits) const { return word_bits >> (4 * index) & 0xFU; }
};

/// Returns the index of column `column % 8` in AWQ's words: even columns come first.
REFIT_FUNCTION int awq_index(std::int64_t column) {
  return static_cast<int>((column & 7) >> 1) + ((column & 1) == 0 ? 0 : 4);
}

/// Returns the place of element (row, column) of [rows, columns] = [N, K].
REFIT_FUNCTION NibblePlace int4_place(StoredFormat format, std::int64_t row, std::int64_t column, std::int64_t rows,
                                      std::int64_t columns) {
  if (format == StoredFormat::gptq) return {column / 8 * rows + row, static_cast<int>(column % 8)};
  if (format == StoredFormat::awq) return {(column * rows + row) / 8, awq_index(row)};
  return {(row * columns + column) / 8, static_cast<int>(column % 8)};
}

/// Returns the place of the zero point of group `group` of a row; of [N, groups].
REFIT_FUNCTION NibblePlace int4_zero_place(StoredFormat format, std::int64_t row, std::int64_t group, std::int64_t rows,
                                           std::int64_t groups) {
  if (format == StoredFormat::gptq) return {(group * rows + row) / 8, static_cast<int>(row % 8)};
  if (format == StoredFormat::awq) return {(group * rows + row) / 8, awq_index(row)};
  return {row / 8 * groups + group, static_cast<int>(row % 8)};
}

/// Returns the nibble that is stored of a zero point, and what a stored one means; GPTQ's are less by 1.
REFIT_FUNCTION std::uint32_t stored_zero(StoredFormat format, int zero) {
  return static_cast<std::uint32_t>(zero - (format == StoredFormat::gptq ? 1 : 0)) & 0xFU;
}
REFIT_FUNCTION int zero_of_stored(StoredFormat format, std::uint32_t nibble) {
  return static_cast<int>(nibble) + (format == StoredFormat::gptq ? 1 : 0);
}

/// Returns the value of a nibble.
REFIT_FUNCTION float int4_value(std::uint32_t nibble, int zero, float scale) {
  return static_cast<float>(static_cast<int>(nibble) - zero) * scale;
}

}  // namespace refit::kernels
