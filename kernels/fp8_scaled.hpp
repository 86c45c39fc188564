#pragma once
// FP8 with one scale for a tensor or for each of its rows, in two steps that hosts and devices compute to the same
// bits:
//
//   fp8_scaling(amax)       the scale that is stored, and how values are scaled
//   fp8_byte(value, that)   one value's E4M3 byte
//
// E.g. vllm, amax 3: 3 / 448 is stored, and 1.0 times its reciprocal is 149.33: 144 (byte 0x71).

#include "kernels/scaling.hpp"

namespace refit::kernels {

/// Step 1: returns the scale of a tensor's or row's values of type `from`.
REFIT_FUNCTION Scaling fp8_scaling(Library library, float amax, DType from) {
  const float nan = std::bit_cast<float>(kNanBits);
  if (amax != amax) return {.multiplier = nan, .stored = nan};
  const float scale = amax / kLargestE4M3;
  switch (library) {
    case Library::vllm: {
      const float least = 1.0F / (kLargestE4M3 * 512.0F);
      const float bounded = scale < least ? least : scale;
      return {.multiplier = 1.0F / bounded, .stored = bounded};
    }
    case Library::compressed_tensors: {
      const float rounded = rounded_to(from, scale);
      const float usable = rounded == 0.0F ? epsilon(from) : rounded;
      return {.divisor = usable, .stored = usable};
    }
    case Library::modelopt: return {.divisor = scale, .stored = scale};
    default: return {.divisor = rounded_to(from, scale), .stored = rounded_to(from, scale)};
  }
}

/// Returns true where the scaled value is rounded to the weight's dtype before it becomes a byte. A ModelOpt scale of
/// one element does not widen what it divides; one for each row does.
REFIT_FUNCTION bool rounds_scaled_values(StoredFormat format, Library library) {
  switch (library) {
    case Library::compressed_tensors:
    case Library::modelopt_qtensor: return true;
    case Library::modelopt: return format == StoredFormat::fp8_tensor;
    default: return false;
  }
}

/// Returns the byte of a scaled value of type `from`. compressed-tensors adds zero, which takes the sign from -0, and
/// from 16-bit NaN.
REFIT_FUNCTION std::uint8_t fp8_rounded(StoredFormat format, Library library, float number, DType from) {
  const float rounded = rounds_scaled_values(format, library) ? rounded_to(from, number) : number;
  const std::uint8_t byte = e4m3_from_f32(rounded);
  if (library != Library::compressed_tensors) return byte;
  const std::uint32_t magnitude = magnitude_bits(rounded);
  const bool loses_sign = magnitude == 0U || (magnitude > kInfinityBits && from != DType::f32);
  return loses_sign ? byte & 0x7FU : byte;
}

/// Step 2: returns the byte of a value of type `from`.
REFIT_FUNCTION std::uint8_t fp8_byte(StoredFormat format, Library library, float value, const Scaling& by, DType from) {
  return fp8_rounded(format, library, scaled(value, by), from);
}

/// Returns the value of a byte.
REFIT_FUNCTION float fp8_value(std::uint8_t byte, float scale) { return f32_from_e4m3(byte) * scale; }

/// Returns what vLLM 0.33's requantize_with_max_scale makes of the byte of a component of a fused weight, after
/// loading: its value goes through float16 on its way to the components' common scale, the largest.
REFIT_FUNCTION std::uint8_t vllm_requantised(std::uint8_t byte, float scale, float common) {
  const float value = rounded_to(DType::f16, fp8_value(byte, scale));
  return e4m3_from_f32(scaled(value, {.multiplier = 1.0F / common}));
}

}  // namespace refit::kernels
