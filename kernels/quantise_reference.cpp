#include "kernels/quantise_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.hpp"
#include "kernels/bits.hpp"

namespace refit::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMax = 448.0F;

/// The scale that a quantiser derives from a block's amax: the factor of its values, and the number stored beside them.
struct Scale {
  float factor = 1.0F;
  float inverse = 1.0F;
  std::uint8_t byte = 0;
};

struct Matrix {
  const std::byte* values;
  DType from;
  std::int64_t rows, columns, row_stride;

  float at(std::int64_t row, std::int64_t column) const {
    const std::int64_t index = row * row_stride + column;
    if (from == DType::f32) return load<float>(values, index);
    const std::uint32_t bits = load<std::uint16_t>(values, index);
    return std::bit_cast<float>(from == DType::f16 ? f32_from_f16(bits) : f32_from_bf16(bits));
  }
};

/// torch.log2 of float32.
float log2_of(float value) { return static_cast<float>(std::log2(static_cast<double>(value))); }

/// torch.clamp, which leaves NaN alone.
float clamp(float value, float low, float high) {
  return std::isnan(value) ? value : std::min(std::max(value, low), high);
}

/// .to(torch.uint8) of an exponent, where NaN becomes 0.
std::uint8_t to_byte(float value) { return std::isnan(value) ? std::uint8_t{0} : static_cast<std::uint8_t>(value); }

Scale nemo_rl(float amax) {
  Scale scale;
  scale.factor = 1.0F / amax;  // max_dtype / max_abs is reciprocal(max_abs) * max_dtype
  scale.factor *= kMax;
  if (amax == 0.0F || amax == kInfinity) scale.factor = 1.0F;
  scale.inverse = 1.0F / scale.factor;
  return scale;
}

Scale nemo_rl_pow2(float amax) {
  Scale scale;
  const float exponent = std::ceil(log2_of(amax / kMax));
  const int biased = to_byte(clamp(exponent, -127.0F, 127.0F) + 127.0F);
  scale.factor = biased == 0 ? 1.0F : std::exp2(static_cast<float>(127 - biased));
  scale.inverse = 1.0F / scale.factor;
  return scale;
}

Scale te(float amax, DType from, bool power_of_two) {
  Scale scale;
  scale.factor = kMax / amax;
  if (scale.factor == kInfinity) {
    scale.factor = std::numeric_limits<float>::max();
    if (from == DType::bf16) scale.factor = 0x1.FEp127F;
    if (from == DType::f16) scale.factor = 65504.0F;
  }
  if (amax == 0.0F) scale.factor = 1.0F;
  if (power_of_two) {
    int exponent = 0;
    if (!std::isnan(scale.factor)) std::frexp(scale.factor, &exponent);
    scale.factor = amax == kInfinity ? 0.0F : std::ldexp(1.0F, exponent - 1);
  }
  scale.inverse = 1.0F / scale.factor;
  return scale;
}

Scale vllm(float amax, bool ue8m0) {
  Scale scale;
  scale.inverse = clamp(amax, 1e-4F, kInfinity) / kMax;
  if (ue8m0) scale.inverse = std::exp2(std::ceil(log2_of(scale.inverse)));
  scale.factor = 1.0F / scale.inverse;
  return scale;
}

Scale mxfp8(float amax, bool skips_zero) {
  Scale scale;
  const float descale = clamp(amax, std::numeric_limits<float>::min(), kInfinity) / kMax;
  const float biased = clamp(std::ceil(log2_of(descale)) + 127.0F, 0.0F, 254.0F);
  scale.factor = 1.0F / std::exp2(biased - 127.0F);
  scale.byte = to_byte(biased);
  if (skips_zero && scale.byte == 0) scale.byte = 1;
  return scale;
}

Scale scale_of(Quantiser quantiser, float amax, DType from) {
  switch (quantiser) {
    case Quantiser::nemo_rl: return nemo_rl(amax);
    case Quantiser::nemo_rl_pow2: return nemo_rl_pow2(amax);
    case Quantiser::te: return te(amax, from, false);
    case Quantiser::te_pow2: return te(amax, from, true);
    case Quantiser::vllm: return vllm(amax, false);
    case Quantiser::vllm_ue8m0: return vllm(amax, true);
    case Quantiser::mxfp8: return mxfp8(amax, false);
    case Quantiser::mxfp8_nemo_rl: return mxfp8(amax, true);
  }
  return {};
}

/// A finite float as E4M3: multiples of 2^(exponent - 3), at least 2^-9; nearest even; 448 beyond.
std::uint8_t encode(float value) {
  const float magnitude = std::min(std::fabs(value), kMax);
  int bits = 0;
  if (magnitude > 0.0F) {
    const int exponent = std::max(std::ilogb(magnitude), -6);
    bits = (exponent + 6) * 8 + static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  }
  return static_cast<std::uint8_t>(bits | (std::signbit(value) ? 0x80 : 0));
}

std::uint8_t byte_of(Quantiser quantiser, float value, float factor) {
  const float product = value * factor;
  if (!std::isnan(product)) return encode(product);
  // The product of a NaN is that NaN on x86-64, of two NaN the first; no product of numbers is NaN except zero times
  // infinity.
  bool negative = true;
  if (std::isnan(value)) negative = std::signbit(value);
  if (std::isnan(factor) && !(is_mx(quantiser) && std::isnan(value))) negative = false;
  return negative ? 0xFF : 0x7F;
}

}  // namespace

void quantise_reference(Quantiser quantiser, const std::byte* values, DType from, std::int64_t rows,
                        std::int64_t columns, std::int64_t row_stride, std::uint8_t* bytes, std::byte* scales) {
  const auto [height, width] = block_size(quantiser);
  REFIT_ASSERT(is_castable(from));
  REFIT_ASSERT(!is_mx(quantiser) || columns % width == 0);
  const Matrix matrix{values, from, rows, columns, row_stride};
  const bool is_nemo_rl = quantiser == Quantiser::nemo_rl || quantiser == Quantiser::nemo_rl_pow2;
  const float padding = is_nemo_rl && rows * columns > 0 ? matrix.at(rows - 1, columns - 1) : 0.0F;
  std::int64_t block = 0;
  for (std::int64_t top = 0; top < rows; top += height) {
    for (std::int64_t left = 0; left < columns; left += width) {
      float amax = 0.0F;
      for (std::int64_t r = top; r < top + height; ++r) {
        for (std::int64_t c = left; c < left + width; ++c) {
          const bool inside = r < rows && c < columns;
          const float magnitude = std::fabs(inside ? matrix.at(r, c) : padding);
          if (std::isnan(magnitude)) amax = kNan;
          if (magnitude > amax) amax = magnitude;
        }
      }
      const Scale scale = scale_of(quantiser, amax, from);
      if (is_mx(quantiser)) {
        store(scales, block, scale.byte);
      } else {
        store(scales, block, std::isnan(scale.inverse) ? kNan : scale.inverse);
      }
      ++block;
      for (std::int64_t r = top; r < std::min(top + height, rows); ++r) {
        for (std::int64_t c = left; c < std::min(left + width, columns); ++c) {
          bytes[r * columns + c] = byte_of(quantiser, matrix.at(r, c), scale.factor);
        }
      }
    }
  }
}

}  // namespace refit::kernels
