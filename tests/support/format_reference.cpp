#include "support/format_reference.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/bits.hpp"

namespace refit::format_reference {
namespace {

using enum Library;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr std::array<float, 8> kE2M1 = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
constexpr std::array<float, 7> kBounds = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};

// torch

/// A result of type `dtype`.
float as(DType dtype, float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::bf16) return std::bit_cast<float>(kernels::f32_from_bf16(kernels::bf16_from_f32(bits)));
  if (dtype == DType::f16) return std::bit_cast<float>(kernels::f32_from_f16(kernels::f16_from_f32(bits)));
  return value;
}

float eps(DType dtype) {
  return dtype == DType::bf16 ? 0.0078125F : dtype == DType::f16 ? 0.0009765625F : 1.1920929e-7F;
}
float tiny(DType dtype) { return dtype == DType::f16 ? 6.103515625e-05F : std::numeric_limits<float>::min(); }

float log2_of(float value) { return static_cast<float>(std::log2(static_cast<double>(value))); }
float clamp(float value, float low, float high) {
  return std::isnan(value) ? value : std::min(std::max(value, low), high);
}
float maximum(float a, float b) { return std::isnan(a) || std::isnan(b) ? kNan : std::max(a, b); }
float sign(float value) { return static_cast<float>((0.0F < value) - (value < 0.0F)); }
std::uint8_t to_byte(float value) {
  return std::isnan(value) ? std::uint8_t{0} : static_cast<std::uint8_t>(static_cast<std::int64_t>(value));
}

float amax_of(std::span<const float> values) {
  float amax = 0.0F;
  for (float value : values) amax = maximum(amax, std::fabs(value));
  return amax;
}

/// .to(torch.float8_e4m3fn): multiples of 2^(exponent - 3), at least 2^-9; nearest even; 448 beyond.
std::uint8_t to_e4m3(float value) {
  if (std::isnan(value)) return std::signbit(value) ? 0xFF : 0x7F;
  const float magnitude = std::min(std::fabs(value), 448.0F);
  int bits = 0;
  if (magnitude > 0.0F) {
    const int exponent = std::max(std::ilogb(magnitude), -6);
    bits = (exponent + 6) * 8 + static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
  }
  return static_cast<std::uint8_t>(bits | (std::signbit(value) ? 0x80 : 0));
}

float from_e4m3(std::uint8_t byte) {
  const int magnitude = byte & 0x7F;
  if (magnitude == 0x7F) return std::bit_cast<float>((byte & 0x80U) << 24 | 0x7FF00000U);  // as torch has it
  const int exponent = std::max(magnitude >> 3, 1);
  const int mantissa = (magnitude & 7) + (magnitude < 8 ? 0 : 8);
  const float value = std::ldexp(static_cast<float>(mantissa), exponent - 10);
  return (byte & 0x80) != 0 ? -value : value;
}

/// What an operation makes whose result is NaN: an operand, quiet, else a negative one, as on x86-64.
float nan_of(float value, float factor) {
  const float nan = std::isnan(factor) ? factor : std::isnan(value) ? value : -kNan;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(nan) | 0x00400000U);
}
float times(float a, float b) {
  const float result = a * b;
  return std::isnan(result) ? nan_of(a, b) : result;
}
float over(float a, float b) {
  const float result = a / b;
  return std::isnan(result) ? nan_of(a, b) : result;
}

// Casts to FP4

/// cast_to_fp4 of compressed-tensors and vLLM.
float cast_to_fp4(float x) {
  const float signed_one = sign(x);
  x = std::fabs(x);
  float result = x;
  if (x >= 0.0F && x <= 0.25F) result = 0.0F;
  if (x > 0.25F && x < 0.75F) result = 0.5F;
  if (x >= 0.75F && x <= 1.25F) result = 1.0F;
  if (x > 1.25F && x < 1.75F) result = 1.5F;
  if (x >= 1.75F && x <= 2.5F) result = 2.0F;
  if (x > 2.5F && x < 3.5F) result = 3.0F;
  if (x >= 3.5F && x <= 5.0F) result = 4.0F;
  if (x > 5.0F) result = 6.0F;
  return result * signed_one;
}

/// argmin of the distances to the values.
int nearest(float magnitude) {
  int best = 0;
  for (int i = 1; i < 8; ++i) {
    const auto distance = [magnitude](int index) {
      return std::fabs(magnitude - kE2M1[static_cast<std::size_t>(index)]);
    };
    if (distance(i) < distance(best)) best = i;
  }
  return best;
}

std::uint8_t pack_fp4(float value, std::uint8_t of_nan) {
  if (std::isnan(value)) return of_nan;
  return static_cast<std::uint8_t>(nearest(std::fabs(value)) + (std::signbit(value) ? 8 : 0));
}

std::uint8_t modelopt_cast_fp4(float value) {
  const int sign_bit = value < 0.0F ? 1 : 0;
  const float magnitude = std::fabs(value);
  int ord = 7;
  if (!std::isnan(value)) {
    ord = static_cast<int>(std::lower_bound(kBounds.begin(), kBounds.end(), magnitude) - kBounds.begin());
  }
  const bool odd = magnitude == 0.75F || magnitude == 1.75F || magnitude == 3.5F;
  return static_cast<std::uint8_t>((sign_bit << 3) + ord + (odd ? 1 : 0));
}

std::uint8_t te_cast_fp4(float x) {
  std::uint8_t result = 0;
  if (x > 0.25F && x < 0.75F) result = 1;
  if (x >= 0.75F && x <= 1.25F) result = 2;
  if (x > 1.25F && x < 1.75F) result = 3;
  if (x >= 1.75F && x <= 2.5F) result = 4;
  if (x > 2.5F && x < 3.5F) result = 5;
  if (x >= 3.5F && x <= 5.0F) result = 6;
  if (x > 5.0F) result = 7;
  if (x >= -0.25F && x < -0.0F) result = 8;
  if (x < -0.25F && x > -0.75F) result = 9;
  if (x <= -0.75F && x >= -1.25F) result = 10;
  if (x < -1.25F && x > -1.75F) result = 11;
  if (x <= -1.75F && x >= -2.5F) result = 12;
  if (x < -2.5F && x > -3.5F) result = 13;
  if (x <= -3.5F && x >= -5.0F) result = 14;
  if (x < -5.0F) result = 15;
  return result;
}

std::uint8_t flashinfer_nibble(float value) {
  return static_cast<std::uint8_t>((value < 0.0F ? 8 : 0) | nearest(std::fabs(value)));
}

/// torchao's _f32_to_floatx_unpacked(x, 2, 1).
std::uint8_t torchao_nibble(float value) {
  const auto bits = std::bit_cast<std::int32_t>(value);
  const auto sign_bit = static_cast<std::int32_t>(bits & std::numeric_limits<std::int32_t>::min());
  const float x = std::bit_cast<float>(bits ^ sign_bit);
  const bool saturates = x >= 6.0F;
  const bool denormal = !saturates && x < 1.0F;
  constexpr std::int32_t kDenormal = ((127 - 1) + (23 - 1) + 1) << 23;
  const std::int32_t denormal_x = std::bit_cast<std::int32_t>(x + std::bit_cast<float>(kDenormal)) - kDenormal;
  auto normal_x = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t odd = (normal_x >> 22) & 1U;
  normal_x += (static_cast<std::uint32_t>(1 - 127) << 23) + 0x1FFFFFU + odd;
  const auto normal = static_cast<std::int32_t>(normal_x) >> 22;
  const std::int32_t index = saturates ? 7 : denormal ? denormal_x : normal;
  return static_cast<std::uint8_t>((index & 0xFF) | (sign_bit != 0 ? 8 : 0));
}

/// triton_kernels' downcast_to_mxfp_torch.
std::uint8_t triton_nibble(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const int exponent = static_cast<int>(bits >> 23 & 0xFF);
  std::uint32_t mantissa = bits & 0x7FFFFFU;
  if (exponent < 127) {
    const int shift = 127 - exponent - 1;
    mantissa = shift > 31 ? 0U : (0x400000U | mantissa >> 1) >> shift;
  }
  const auto kept = static_cast<std::uint32_t>(std::max(exponent, 126) - 126);
  const std::uint32_t index = ((kept << 2 | mantissa >> 21) + 1U) >> 1;
  return static_cast<std::uint8_t>(bits >> 31 << 3 | std::min(index, 7U));
}

std::uint8_t modelopt_mx_nibble(float x) {
  const int sign_bit = static_cast<int>(std::floor((2.0F - sign(x)) / 2.0F));
  int ord = 0;
  for (float bound : kBounds) ord += std::fabs(x) - bound > 0.0F ? 1 : 0;
  return static_cast<std::uint8_t>(sign_bit * 8 + ord);
}

// NVFP4

/// NaN of zeros and infinities is negative on x86-64; that of NaN is unspecified.
std::uint8_t scale_byte(float value, const Block& block, float amax) {
  if (!std::isnan(value)) return to_e4m3(value);
  return std::isnan(amax) || std::isnan(block.tensor_amax) ? 0x7F : 0xFF;
}

/// The sign that torch leaves compressed-tensors' NaN depends on the dtype.
std::uint8_t zero_of_nan(DType from) { return from == DType::f32 ? 0 : 8; }

void compressed_tensors_nvfp4(const Block& block, float amax, Quantised& result) {
  const float bounded = clamp(block.tensor_amax, tiny(block.from), kInfinity);
  float global = as(block.from, as(block.from, 1.0F / bounded) * 2688.0F);
  if (std::isnan(global) || std::isinf(global)) global = 1.0F;
  const float local = global * as(block.from, amax / 6.0F);
  result.byte = scale_byte(clamp(local, -448.0F, 448.0F), block, amax);
  if (from_e4m3(result.byte) == 0.0F) result.byte = to_e4m3(0.125F);
  result.tensor = global;
  const float scale = from_e4m3(result.byte);
  for (float x : block.values) {
    result.elements.push_back(pack_fp4(cast_to_fp4(clamp(x / (scale / global), -6.0F, 6.0F)), zero_of_nan(block.from)));
  }
}

void modelopt_nvfp4(const Block& block, float amax, Quantised& result) {
  const float global = block.tensor_amax / 2688.0F;
  float scale = amax / (6.0F * global);
  if (scale == 0.0F) scale = 1.0F;
  result.tensor = global;
  result.byte = scale_byte(clamp(scale, 0.001953125F, 448.0F), block, amax);
  for (float x : block.values) result.elements.push_back(modelopt_cast_fp4(x / (from_e4m3(result.byte) * global)));
}

float vllm_reciprocal(float x) { return 1.0F / (x + static_cast<float>(x == 0.0F) * 1e8F); }

void vllm_nvfp4(const Block& block, float amax, Quantised& result) {
  float global = 1.0F / block.tensor_amax;
  global *= 2688.0F;
  const float local = global * (amax * static_cast<float>(1.0 / 6.0));
  result.tensor = global;
  result.byte = scale_byte(clamp(local, -448.0F, 448.0F), block, amax);
  const float by = vllm_reciprocal(from_e4m3(result.byte) * vllm_reciprocal(global));
  for (float x : block.values) result.elements.push_back(pack_fp4(cast_to_fp4(clamp(x * by, -6.0F, 6.0F)), 0));
}

float torch_min(float a, float b) { return std::isnan(a) || std::isnan(b) ? kNan : std::min(a, b); }

void te_nvfp4(const Block& block, float amax, Quantised& result) {
  float encode = torch_min(448.0F * 6.0F / block.tensor_amax, kLargest);
  if (encode == 0.0F) encode = 1.0F;
  const float decode = 1.0F / encode;
  const float multiplier = encode * (1.0F / 6.0F);
  const float local = torch_min(amax * multiplier, kLargest);
  result.tensor = block.tensor_amax;
  result.byte = scale_byte(clamp(local, -448.0F, 448.0F), block, amax);
  const float by = torch_min(1.0F / (from_e4m3(result.byte) * decode), kLargest);
  for (float x : block.values) result.elements.push_back(te_cast_fp4(clamp(x * by, -6.0F, 6.0F)));
}

void flashinfer_nvfp4(const Block& block, float amax, Quantised& result) {
  float global = 1.0F / block.tensor_amax;
  global *= 2688.0F;
  result.tensor = global;
  result.byte = scale_byte(amax / 6.0F * global, block, amax);
  const float decoded = from_e4m3(result.byte);
  const float scale = decoded > 0.0F ? decoded : 1.0F;
  for (float x : block.values) result.elements.push_back(flashinfer_nibble(x * global / scale));
}

void torchao_nvfp4(const Block& block, float amax, Quantised& result) {
  const float global = block.tensor_amax / 2688.0F;
  result.tensor = global;
  result.byte = scale_byte(clamp(amax / 6.0F / global, 0.015625F, 448.0F), block, amax);
  const float by = over(1.0F / global, from_e4m3(result.byte));
  for (float x : block.values) result.elements.push_back(torchao_nibble(clamp(times(x, by), -6.0F, 6.0F)));
}

void nvfp4(const Block& block, float amax, Quantised& result) {
  switch (block.library) {
    case compressed_tensors: return compressed_tensors_nvfp4(block, amax, result);
    case modelopt: return modelopt_nvfp4(block, amax, result);
    case te:
    case te_16x16: return te_nvfp4(block, amax, result);
    case flashinfer: return flashinfer_nvfp4(block, amax, result);
    case torchao: return torchao_nvfp4(block, amax, result);
    default: return vllm_nvfp4(block, amax, result);
  }
}

// MXFP4

void triton_mxfp4(const Block& block, float amax, bool up, Quantised& result) {
  const float dequant_scale = amax / 6.0F;
  const auto bits = std::bit_cast<std::uint32_t>(dequant_scale) + (up ? 0x7FFFFFU : 0U);
  const float rounded = std::bit_cast<float>(bits & 0x7F800000U);
  const float quant_scale = rounded == 0.0F ? 0.0F : 1.0F / rounded;
  result.byte = static_cast<std::uint8_t>((bits & 0x7F800000U) >> 23);
  for (float x : block.values) result.elements.push_back(triton_nibble(times(x, quant_scale)));
}

void compressed_tensors_mxfp4(const Block& block, float amax, Quantised& result) {
  const auto rounded = std::bit_cast<float>((std::bit_cast<std::uint32_t>(amax) + (1U << 21)) & 0xFF800000U);
  const float exponent = std::isnan(amax) ? kNan : 127.0F + std::floor(log2_of(rounded)) - 2.0F;
  const float scale = std::exp2(static_cast<float>(static_cast<int>(to_byte(clamp(exponent, 0.0F, 255.0F))) - 127));
  // The int32 of infinity is the smallest one.
  result.byte = scale == kInfinity ? 127 : to_byte(127.0F + std::floor(log2_of(scale)));
  for (float x : block.values) {
    result.elements.push_back(
        pack_fp4(cast_to_fp4(clamp(as(block.from, x / scale), -6.0F, 6.0F)), zero_of_nan(block.from)));
  }
}

void modelopt_mxfp4(const Block& block, float amax, Quantised& result) {
  const float exponent = std::ceil(maximum(log2_of(amax / 6.0F), -127.0F));
  result.byte = std::isinf(exponent) ? std::uint8_t{0} : to_byte(exponent + 127.0F);
  for (float x : block.values) result.elements.push_back(modelopt_mx_nibble(x / std::exp2(exponent)));
}

void flashinfer_mxfp4(const Block& block, float amax, Quantised& result) {
  const float scale = amax / 6.0F;
  const float safe = scale > 0.0F ? scale : 1.0F;
  const float exponent = std::isinf(safe) ? -127.0F : clamp(std::floor(log2_of(safe)), -127.0F, 128.0F);
  result.byte = to_byte(exponent + 127.0F);
  for (float x : block.values) result.elements.push_back(flashinfer_nibble(x / std::exp2(exponent)));
}

void torchao_rceil_mxfp4(const Block& block, float amax, Quantised& result) {
  const float descale = amax / 6.0F;
  const float exponent = clamp(std::ceil(log2_of(descale)), -127.0F, 127.0F);
  result.byte = std::isnan(descale) ? 255 : std::isinf(descale) ? 254 : to_byte(exponent + 127.0F);
  float by = std::exp2(127.0F - static_cast<float>(result.byte));
  if (result.byte == 0) by = 1.0F;
  if (result.byte == 255) by = descale;
  for (float x : block.values) result.elements.push_back(torchao_nibble(clamp(times(x, by), -6.0F, 6.0F)));
}

void torchao_mxfp4(const Block& block, float amax, Quantised& result) {
  auto bits = std::bit_cast<std::int32_t>(amax);
  if (block.library == torchao_even) {
    const auto rounded = (static_cast<std::uint32_t>(bits) + (1U << 21)) & 0xFF800000U;
    bits = std::isnan(amax) ? 0x7FC00000 : static_cast<std::int32_t>(rounded);
  }
  std::int32_t exponent = ((bits >> 23) & 0xFF) - 127;
  if (block.library == torchao_ceil && (bits & 0x7FFFFF) > 0) ++exponent;
  exponent = std::clamp(exponent - 2, -127, 128);
  result.byte = std::isnan(amax) ? 255 : static_cast<std::uint8_t>(exponent + 127);
  const float scale = std::max(std::bit_cast<float>(static_cast<std::uint32_t>(result.byte) << 23), 0x1p-126F);
  for (float x : block.values) result.elements.push_back(torchao_nibble(over(x, scale)));
}

void mxfp4(const Block& block, float amax, Quantised& result) {
  switch (block.library) {
    case triton: return triton_mxfp4(block, amax, true, result);
    case triton_round_down: return triton_mxfp4(block, amax, false, result);
    case compressed_tensors: return compressed_tensors_mxfp4(block, amax, result);
    case modelopt: return modelopt_mxfp4(block, amax, result);
    case flashinfer: return flashinfer_mxfp4(block, amax, result);
    case torchao_rceil: return torchao_rceil_mxfp4(block, amax, result);
    default: return torchao_mxfp4(block, amax, result);
  }
}

// FP8

void vllm_fp8(const Block& block, float amax, Quantised& result) {
  result.scale = clamp(amax / 448.0F, static_cast<float>(1.0 / (448.0 * 512.0)), kInfinity);
  const float reciprocal = 1.0F / result.scale;
  for (float x : block.values) result.elements.push_back(to_e4m3(clamp(times(x, reciprocal), -448.0F, 448.0F)));
}

void compressed_tensors_fp8(const Block& block, float amax, Quantised& result) {
  result.scale = as(block.from, amax / 448.0F);
  if (result.scale == 0.0F) result.scale = eps(block.from);
  for (float x : block.values) {
    float sum = as(block.from, as(block.from, over(x, result.scale)) + 0.0F);
    if (std::isnan(sum) && block.from != DType::f32) sum = kNan;
    result.elements.push_back(to_e4m3(clamp(sum, -448.0F, 448.0F)));
  }
}

void torchao_fp8(const Block& block, float amax, Quantised& result) {
  result.scale = as(block.from, amax / 448.0F);
  for (float x : block.values) result.elements.push_back(to_e4m3(clamp(over(x, result.scale), -448.0F, 448.0F)));
}

/// ModelOpt's exporter keeps float32 scales, FP8QTensor those of the weight's dtype.
void modelopt_fp8(const Block& block, float amax, Quantised& result) {
  const bool exporter = block.library == modelopt;
  result.scale = exporter ? amax / 448.0F : as(block.from, amax / 448.0F);
  const bool promotes = exporter && block.format == StoredFormat::fp8_channel;
  for (float x : block.values) {
    const float quotient = over(x, result.scale);
    result.elements.push_back(to_e4m3(promotes ? quotient : as(block.from, quotient)));
  }
}

void fp8(const Block& block, float amax, Quantised& result) {
  switch (block.library) {
    case vllm: return vllm_fp8(block, amax, result);
    case compressed_tensors: return compressed_tensors_fp8(block, amax, result);
    case torchao: return torchao_fp8(block, amax, result);
    default: return modelopt_fp8(block, amax, result);
  }
}

// INT4

int to_int(float value) { return std::isnan(value) ? 0 : static_cast<int>(value); }

void compressed_tensors_int4(const Block& block, float least, float greatest, Quantised& result) {
  const bool asymmetric = block.format == StoredFormat::int4_asym;
  const float min_val = std::min(least, 0.0F);
  const float max_val = std::max(greatest, 0.0F);
  float scale = 0.0F;
  float zero = 0.0F;
  if (asymmetric) {
    scale = as(block.from, as(block.from, max_val - min_val) / 15.0F);
    zero = as(block.from, -8.0F - as(block.from, min_val / scale));
    zero = clamp(zero, -8.0F, 7.0F);
  } else {
    scale = as(block.from, std::max(std::fabs(min_val), std::fabs(max_val)) / 7.5F);
  }
  if (scale == 0.0F) scale = eps(block.from);
  const int zero_point = to_int(std::nearbyint(zero));
  for (float x : block.values) {
    const float shifted = as(block.from, as(block.from, x / scale) + static_cast<float>(zero_point));
    result.elements.push_back(static_cast<std::uint8_t>(to_int(std::nearbyint(clamp(shifted, -8.0F, 7.0F))) + 8));
  }
  result.scale = scale;
  result.zero = zero_point + 8;
}

void vllm_int4(const Block& block, float least, float greatest, Quantised& result) {
  const DType from = block.from;
  const bool zero_points = block.format == StoredFormat::awq;
  int zero = 0;
  if (zero_points) {
    const float range = clamp(as(from, greatest - least), as(from, 1e-5F), kInfinity);
    result.scale = as(from, range / 15.0F);
    zero = to_int(clamp(std::nearbyint(std::fabs(as(from, least / result.scale))), 0.0F, 15.0F));
  } else {
    result.scale = maximum(std::fabs(as(from, greatest / 7.0F)), std::fabs(as(from, least / -8.0F)));
  }
  for (float w : block.values) {
    const int integer = to_int(clamp(std::nearbyint(as(from, w / result.scale)), -1e6F, 1e6F)) + zero;
    const int bounded = std::clamp(integer, zero_points ? 0 : -8, zero_points ? 15 : 7);
    result.elements.push_back(static_cast<std::uint8_t>(bounded + (zero_points ? 0 : 8)));
  }
  result.zero = zero_points ? zero : 8;
}

void int4(const Block& block, Quantised& result) {
  float least = *std::min_element(block.values.begin(), block.values.end());
  float greatest = *std::max_element(block.values.begin(), block.values.end());
  if (std::any_of(block.values.begin(), block.values.end(), [](float x) { return std::isnan(x); })) {
    least = greatest = kNan;
  }
  if (block.library == vllm) {
    vllm_int4(block, least, greatest, result);
  } else {
    compressed_tensors_int4(block, least, greatest, result);
  }
}

}  // namespace

Quantised quantised(const Block& block) {
  Quantised result;
  result.elements.reserve(block.values.size());
  switch (block.format) {
    case StoredFormat::nvfp4: nvfp4(block, amax_of(block.values), result); break;
    case StoredFormat::mxfp4: mxfp4(block, amax_of(block.values), result); break;
    case StoredFormat::fp8_tensor:
    case StoredFormat::fp8_channel: fp8(block, amax_of(block.values), result); break;
    default: int4(block, result); break;
  }
  return result;
}

}  // namespace refit::format_reference
