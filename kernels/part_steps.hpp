#pragma once
// What a kernel does to the values of a part (kernels/parts.hpp), with format, library and dtype as constants.

#include <type_traits>

#include "kernels/fp8_scaled.hpp"
#include "kernels/int4.hpp"
#include "kernels/mxfp4.hpp"
#include "kernels/nvfp4.hpp"

/// Calls with_quantiser(format, library) for every quantiser that has kernels.
#define REFIT_NVFP4_QUANTISERS(with_quantiser)                                                                \
  with_quantiser(nvfp4, compressed_tensors) with_quantiser(nvfp4, flashinfer) with_quantiser(nvfp4, modelopt) \
      with_quantiser(nvfp4, te) with_quantiser(nvfp4, torchao) with_quantiser(nvfp4, vllm)
#define REFIT_MXFP4_QUANTISERS(with_quantiser)                                                                     \
  with_quantiser(mxfp4, compressed_tensors) with_quantiser(mxfp4, flashinfer) with_quantiser(mxfp4, modelopt)      \
      with_quantiser(mxfp4, torchao_floor) with_quantiser(mxfp4, torchao_ceil) with_quantiser(mxfp4, torchao_even) \
          with_quantiser(mxfp4, torchao_rceil) with_quantiser(mxfp4, triton) with_quantiser(mxfp4, triton_round_down)
#define REFIT_SCALED_QUANTISERS(with_quantiser)                                            \
  with_quantiser(fp8_tensor, compressed_tensors) with_quantiser(fp8_tensor, modelopt)      \
      with_quantiser(fp8_tensor, modelopt_qtensor) with_quantiser(fp8_tensor, torchao)     \
          with_quantiser(fp8_tensor, vllm) with_quantiser(fp8_channel, compressed_tensors) \
              with_quantiser(fp8_channel, modelopt) with_quantiser(fp8_channel, torchao)   \
                  with_quantiser(fp8_channel, vllm) with_quantiser(int4, compressed_tensors)
#define REFIT_PART_QUANTISERS(with_quantiser) \
  REFIT_NVFP4_QUANTISERS(with_quantiser)      \
  REFIT_MXFP4_QUANTISERS(with_quantiser)      \
  REFIT_SCALED_QUANTISERS(with_quantiser)

namespace refit::kernels {

/// The steps of a quantiser of values of type From.
template <StoredFormat format, Library library, typename From>
struct PartSteps {
  using Type = From;
  static constexpr StoredFormat kFormat = format;
  static constexpr DType kFrom = From::kType;
  static constexpr bool kHasBlocks = format == StoredFormat::nvfp4 || format == StoredFormat::mxfp4 || is_int4(format);
  static constexpr bool kIsPacked = element_bits(format) == 4;
  static constexpr bool kDivides =
      is_int4(format) || (element_bits(format) == 8 && library != Library::vllm) ||
      (format == StoredFormat::nvfp4 &&
       (library == Library::compressed_tensors || library == Library::modelopt || library == Library::flashinfer));
  static constexpr bool kMultiplies = !kDivides || (format == StoredFormat::nvfp4 && library == Library::flashinfer);

  /// Returns NVFP4's scale of the tensor.
  REFIT_FORCEINLINE static float tensor_scale(float amax) {
    return format == StoredFormat::nvfp4 ? nvfp4_tensor_scale(library, amax, kFrom) : 0.0F;
  }

  /// Returns what is stored of it: TransformerEngine's amax as the divisor that it stands for.
  REFIT_FORCEINLINE static float stored_tensor_scale(float tensor) {
    return library == Library::te ? te_encode_scale(tensor) : tensor;
  }

  /// Returns how values are scaled: those of a block, a row or the tensor with an amax, which shares `tensor`.
  REFIT_FORCEINLINE static Scaling scaling(float amax, float tensor) {
    if constexpr (format == StoredFormat::nvfp4) {
      return nvfp4_scaling(library, nvfp4_block_scale(library, amax, tensor, kFrom), tensor);
    } else if constexpr (format == StoredFormat::mxfp4) {
      return mxfp4_scaling(library, amax);
    } else if constexpr (is_int4(format)) {
      const float scale = int4_scaling(format, -amax, amax, kFrom).scale;
      return {.divisor = scale, .stored = scale};
    } else {
      return fp8_scaling(library, amax, kFrom);
    }
  }

  /// Returns the same scaling as a number for each operation that has an effect, where every scaled value of a block is
  /// a number. MXFP4 divides by powers of two, whose reciprocals are exact.
  REFIT_FORCEINLINE static Scaling of_numbers(const Scaling& by) {
    if constexpr (format == StoredFormat::mxfp4) return {.multiplier = by.multiplier / by.divisor};
    return by;
  }

  /// Returns whether no scaled value is NaN; of_numbers may be used then.
  REFIT_FORCEINLINE static bool has_numbers(std::uint32_t amax, const Scaling& by) {
    return amax < kInfinityBits && magnitude_bits(by.multiplier) < kInfinityBits && by.divisor < infinity() &&
           by.divisor > 0.0F;
  }

  /// Returns what is stored of a value.
  REFIT_FORCEINLINE static std::uint8_t element(float value, const Scaling& by) {
    if constexpr (is_int4(format)) {
      return int4_nibble(format, value, {by.divisor, 8}, kFrom);
    } else {
      return rounded(scaled(value, by));
    }
  }
  /// Returns the same of a block that has numbers, without a branch.
  REFIT_FORCEINLINE static std::uint8_t element_of_number(float value, const Scaling& by) {
    const float number = scaled_number(value, by);
    if constexpr (is_int4(format)) {
      // |number| is below 16: a scale is at least half of the largest magnitude / 7.5.
      const float magic = rounded_to(kFrom, number) + 0x1.8p23F;
      const auto integer = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(magic) - 0x4B400000U);
      const std::int32_t raised = integer > -8 ? integer : -8;
      return static_cast<std::uint8_t>((raised < 7 ? raised : 7) + 8);
    } else if constexpr (element_bits(format) == 8) {
      return e4m3_from_number(kept_number(value, by));
    } else {
      return rounded(number);
    }
  }

  /// Returns the number whose E4M3 byte is stored of a value.
  REFIT_FORCEINLINE static float kept_number(float value, const Scaling& by) {
    const float number = scaled_number(value, by);
    const float kept = rounds_scaled_values(format, library) ? rounded_to(kFrom, number) : number;
    return library == Library::compressed_tensors ? kept + 0.0F : kept;  // -0 becomes 0
  }

  REFIT_FORCEINLINE static float scaled_number(float value, const Scaling& by) {
    float number = value;
    if constexpr (kMultiplies) number = number * by.multiplier;
    if constexpr (kDivides) number = number / by.divisor;
    return number;
  }

  REFIT_FORCEINLINE static std::uint8_t rounded(float number) {
    if constexpr (format == StoredFormat::nvfp4) {
      return nvfp4_rounded(library, number, kFrom);
    } else if constexpr (format == StoredFormat::mxfp4) {
      return mxfp4_rounded(library, number, kFrom);
    } else {
      return fp8_rounded(format, library, number, kFrom);
    }
  }
};

/// Stores a scale that is a number; all NaN have the same bits.
REFIT_FUNCTION void store_number(std::byte* to, std::int64_t index, DType dtype, float number) {
  const std::uint32_t bits = stored_bits(number);
  if (dtype == DType::f32) store(to, index, bits);
  if (dtype == DType::bf16) store(to, index, static_cast<std::uint16_t>(bf16_from_f32(bits)));
  if (dtype == DType::f16) store(to, index, static_cast<std::uint16_t>(f16_from_f32(bits)));
}

}  // namespace refit::kernels
