#pragma once
// The values of a block, a row or a tensor in few operations, for devices: where every scaled value is a number of
// usual size. Results are those of PartSteps, bit for bit.

#include <cmath>

#include "kernels/part_steps.hpp"

namespace refit::kernels {

/// Returns value / divisor, rounded once, from reciprocal = 1 / divisor, rounded once: P. Markstein's division, whose
/// second step is right where the first is next to it. The divisor is within 2^-60 .. 2^10; quotients below 2^-20 are
/// near their value, and of its sign.
REFIT_FORCEINLINE float quotient(float value, float divisor, float reciprocal) {
  const float guess = value * reciprocal;
  const float near = fmaf(fmaf(-guess, divisor, value), reciprocal, guess);
  return fmaf(fmaf(-near, divisor, value), reciprocal, near);
}

/// Returns the bits of kE2m1Code + the index of the nearest E2M1 value, even at ties, of a magnitude below 7. Indices
/// go up by 1 each 0.5 up to 2, each 1 up to 4, each 2 from there: it is the least of three lines' roundings.
inline constexpr float kE2m1Code = 0x1p23F;
REFIT_FORCEINLINE float e2m1_code(float magnitude) {
  const float halves = fmaf(magnitude, 2.0F, kE2m1Code);
  const float ones = magnitude + (kE2m1Code + 2.0F);
  const float twos = fmaf(magnitude, 0.5F, kE2m1Code + 4.0F);
  return fminf(fminf(halves, ones), twos);
}

/// Scaled values of E2M1 formats, and of others by division.
template <StoredFormat format, Library library, typename From>
struct PartNumbers {
  using Steps = PartSteps<format, library, From>;

  static constexpr bool kIsMx = format == StoredFormat::mxfp4;
  static constexpr bool kIsTriton = library == Library::triton || library == Library::triton_round_down;
  static constexpr bool kIsModeloptMx = kIsMx && library == Library::modelopt;
  /// Ties that do not go to even ones: a factor next to 1 moves them, and moves no other value of 2 bytes over a bound.
  static constexpr bool kMovesTies = kIsTriton || kIsModeloptMx;
  /// Scaled values may be 7 and more.
  static constexpr bool kSaturates = library == Library::torchao_floor || library == Library::triton_round_down;
  static constexpr bool kIsE2m1 = Steps::kIsPacked && !is_int4(format);
  static constexpr bool kIsUsable = library != Library::flashinfer &&
                                    !(kMovesTies && std::is_same_v<From, F32>)&&!(
                                        kIsMx && library == Library::compressed_tensors && std::is_same_v<From, F16>);

  float multiplier = 1.0F;
  float divisor = 1.0F;
  float reciprocal = 1.0F;
  float largest = 0.0F;  ///< of the magnitudes after scaling

  /// Makes them of the scaling of values with an amax.
  REFIT_FORCEINLINE PartNumbers(std::uint32_t amax, const Scaling& by) {
    const Scaling plain = Steps::of_numbers(by);
    multiplier = plain.multiplier;
    divisor = plain.divisor;
    if constexpr (Steps::kDivides) reciprocal = 1.0F / divisor;
    if constexpr (kMovesTies) multiplier = multiplier * (kIsTriton ? 1.0F + 0x1p-14F : 1.0F - 0x1p-14F);
    largest = scaled_value(std::bit_cast<float>(amax));
  }

  /// Returns whether these numbers are as usual as they must be: no quotient or product becomes zero, where its sign is
  /// that of zero then.
  REFIT_FORCEINLINE bool are_usual() const {
    constexpr float kLargestDivisor = std::is_same_v<From, F32> ? 0.5F : 0x1p10F;
    constexpr float kLeast = kIsMx && library == Library::compressed_tensors ? 1.0F : kIsModeloptMx ? 0x1p-10F : 0.0F;
    const bool is_scaled = Steps::kDivides ? divisor >= 0x1p-60F && divisor <= kLargestDivisor
                                           : multiplier >= kLeast && multiplier < 0x1p120F;
    return kIsUsable && is_scaled && (!kIsE2m1 || largest < (kSaturates ? 16.0F : 7.0F));
  }

  REFIT_FORCEINLINE float scaled_value(float value) const {
    if constexpr (Steps::kDivides) return quotient(value, divisor, reciprocal);
    return value * multiplier;
  }

  /// Returns kE2m1Code + a nibble.
  REFIT_FORCEINLINE float nibble_code(float value) const {
    const float number = scaled_value(value);
    if constexpr (is_int4(format)) {
      const float kept = rounded_to(Steps::kFrom, number);
      const float raised = fmaxf(kept, -8.0F);
      return fminf(raised, 7.0F) + (kE2m1Code + 8.0F);
    } else {
      const float code = e2m1_code(fabsf(number));
      const float bounded = kSaturates ? fminf(code, kE2m1Code + 7.0F) : code;
      constexpr bool kKeepsSign = library == Library::torchao || (kIsMx && library != Library::compressed_tensors);
      const bool is_negative = kIsModeloptMx ? !(number > 0.0F)
                               : kKeepsSign  ? std::bit_cast<std::int32_t>(number) < 0
                                             : number < 0.0F;
      return bounded + (is_negative ? 8.0F : 0.0F);
    }
  }

  /// Returns the number whose E4M3 byte is stored of a value.
  REFIT_FORCEINLINE float kept_number(float value) const {
    const float number = copysignf(scaled_value(value), value);  // a quotient of -0 is 0
    const float kept = rounds_scaled_values(format, library) ? rounded_to(Steps::kFrom, number) : number;
    return library == Library::compressed_tensors ? kept + 0.0F : kept;  // -0 becomes 0
  }
};

}  // namespace refit::kernels
