#pragma once
// The rules of core/processed.hpp, element by element, on hosts and devices.

#include <cstddef>

#include "core/processed.hpp"
#include "kernels/fp8_scaled.hpp"

namespace refit::kernels {

/// Returns the number of a group.
REFIT_FUNCTION float processed_number(const NumberRule& rule, const float* scales, std::int64_t group) {
  const std::int64_t size = rule.scales / rule.groups;
  float chosen = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const float scale = scales[group * size + i];
    const float compared = rule.inverts_before ? 1.0F / scale : scale;
    if (i == 0 || (rule.choice == NumberRule::Choice::largest && compared > chosen)) chosen = compared;
  }
  return rule.inverts_after ? 1.0F / chosen : chosen;
}

/// Returns a byte of a component at its matrix's largest scale. `scales`: the matrix's.
REFIT_FUNCTION std::uint8_t requantised_byte(const ByteRule& rule, std::uint8_t byte, const float* scales,
                                             std::int64_t row) {
  float largest = scales[0];
  bool are_equal = true;
  int component = 0;
  for (int i = 1; i < rule.components; ++i) {
    largest = scales[i] > largest ? scales[i] : largest;
    are_equal = are_equal && scales[i] == scales[0];
    component = row >= rule.begin[static_cast<std::size_t>(i)] ? i : component;
  }
  if (rule.requantise == ByteRule::Requantise::where_unequal && are_equal) return byte;
  return vllm_requantised(byte, scales[component], largest);
}

/// Returns byte `index` of what is made of `source`.
REFIT_FUNCTION std::uint8_t processed_byte(const ByteRule& rule, const std::uint8_t* source, const float* scales,
                                           std::int64_t index) {
  const std::int64_t columns = rule.padded_columns();
  const std::int64_t size = rule.padded_rows() * columns;
  const std::int64_t matrix = index / size;
  const std::int64_t at = index - matrix * size;
  std::int64_t row = at / columns;
  std::int64_t column = at - row * columns;
  if (rule.order == ByteRule::Order::transposed) {
    const std::int64_t swapped = row;
    row = column;
    column = swapped;
  } else if (rule.order == ByteRule::Order::swizzled) {
    const std::int64_t tile = at / 512;  // of 128 x 4
    const std::int64_t across = columns / 4;
    row = tile / across * 128 + at % 16 / 4 * 32 + at % 512 / 16;
    column = tile % across * 4 + at % 4;
    if (row >= rule.rows || column >= rule.columns) return 0;
  }
  if (rule.swaps_halves) row = row < rule.rows / 2 ? row + rule.rows / 2 : row - rule.rows / 2;
  const std::uint8_t byte = source[(matrix * rule.rows + row) * rule.columns + column];
  if (rule.requantise == ByteRule::Requantise::never) return byte;
  return requantised_byte(rule, byte, scales + matrix * rule.components, row);
}

class ExecutionSpace;

/// Makes `count` numbers of `scales`, each multiplied by that of `factors` unless these are null; `repeats`: the first
/// one over and over. Enqueued.
void process(const ExecutionSpace& space, const NumberRule& rule, const std::byte* scales, const std::byte* factors,
             std::byte* destination, std::int64_t count, bool repeats);

/// Makes all bytes of `source`'s matrices. `scales`: of their components, where they are quantised again. Enqueued.
void process(const ExecutionSpace& space, const ByteRule& rule, const std::byte* source, const std::byte* scales,
             std::byte* destination);

}  // namespace refit::kernels
