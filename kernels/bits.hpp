#pragma once
// Loads, stores and conversions of single elements by their bits. Branch-free where a host compiler is to vectorise.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.hpp"
#include "kernels/device.hpp"

// Host loops that pay for wider vectors are compiled three times and chosen at load time; the build stays plain x86-64.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define REFIT_HOST_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define REFIT_HOST_VECTORS
#endif

namespace refit::kernels {

/// Element `index` of an array of T at `data`. On hosts `data` need not be aligned: it may lie in a mapped file.
template <typename T>
REFIT_FORCEINLINE T load(const std::byte* data, std::int64_t index) {
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
  return reinterpret_cast<const T*>(data)[index];
#else
  T value;
  __builtin_memcpy(&value, data + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
#endif
}

template <typename T>
REFIT_FORCEINLINE void store(std::byte* data, std::int64_t index, T value) {
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
  reinterpret_cast<T*>(data)[index] = value;
#else
  __builtin_memcpy(data + index * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
#endif
}

/// The widest unit: 16 bytes, one load of a device lane.
struct alignas(16) Unit16 {
  std::uint64_t low, high;
};

/// Bits of any size, moved as they are.
template <typename B>
struct Plain {
  using Bits = B;
};

/// Bits of the element types that are converted into each other.
struct F32 {
  using Bits = std::uint32_t;
  static constexpr DType kType = DType::f32;
  static constexpr Bits kQuietNan = 0x7FC00000U;
};
struct F16 {
  using Bits = std::uint16_t;
  static constexpr DType kType = DType::f16;
  static constexpr Bits kQuietNan = 0x7E00U;
};
struct BF16 {
  using Bits = std::uint16_t;
  static constexpr DType kType = DType::bf16;
  static constexpr Bits kQuietNan = 0x7FC0U;
};

/// True for the three types above.
template <typename Type>
inline constexpr bool is_value = std::is_same_v<Type, F32> || std::is_same_v<Type, F16> || std::is_same_v<Type, BF16>;

REFIT_FORCEINLINE std::uint32_t f32_from_bf16(std::uint32_t bits) {
  return (bits << 16) | ((bits & 0x7FFFU) > 0x7F80U ? 0x00400000U : 0U);
}

REFIT_FORCEINLINE std::uint32_t bf16_from_f32(std::uint32_t bits) {
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? ((bits >> 16) | 0x0040U) : rounded;
}

REFIT_FORCEINLINE std::uint32_t f32_from_f16(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7FFFU;
  const std::uint32_t normal = (magnitude << 13) + (112U << 23);
  const std::uint32_t special = (magnitude << 13) | 0x7F800000U | (magnitude > 0x7C00U ? 0x00400000U : 0U);
  // A subnormal is its mantissa x 2^-24, exactly.
  const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24F;
  const std::uint32_t finite = magnitude < 0x0400U ? std::bit_cast<std::uint32_t>(small) : normal;
  return ((bits & 0x8000U) << 16) | (magnitude >= 0x7C00U ? special : finite);
}

REFIT_FORCEINLINE std::uint32_t f16_from_f32(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const std::uint32_t normal = (magnitude - (112U << 23) + 0x0FFFU + ((magnitude >> 13) & 1U)) >> 13;
  // One unit of 0.5F is 2^-24, a subnormal's unit: the addition rounds, and leaves the mantissa in the low bits.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  const std::uint32_t finite = magnitude < 0x38800000U ? small : normal;
  const std::uint32_t bounded = magnitude >= 0x477FF000U ? 0x7C00U : finite;  // 65520 and above round to infinity
  const std::uint32_t nan = 0x7E00U | ((magnitude >> 13) & 0x03FFU);
  return ((bits & 0x80000000U) >> 16) | (magnitude > 0x7F800000U ? nan : bounded);
}

/// The bits of one value of type From as type To; equal types move bits.
template <typename From, typename To>
REFIT_FORCEINLINE typename To::Bits convert(typename From::Bits bits) {
  if constexpr (std::is_same_v<From, To>) {
    return bits;
  } else {
    std::uint32_t wide = bits;
    if constexpr (std::is_same_v<From, BF16>) wide = f32_from_bf16(bits);
    if constexpr (std::is_same_v<From, F16>) wide = f32_from_f16(bits);
    if constexpr (std::is_same_v<To, BF16>) wide = bf16_from_f32(wide);
    if constexpr (std::is_same_v<To, F16>) wide = f16_from_f32(wide);
    return static_cast<typename To::Bits>(wide);
  }
}

/// Calls action(From{}, To{}) with the types of two castable dtypes.
REFIT_CALLS_EITHER
template <typename From, typename Action>
REFIT_FUNCTION void with_target(DType to, const Action& action) {
  if (to == DType::f32) action(From{}, F32{});
  if (to == DType::f16) action(From{}, F16{});
  if (to == DType::bf16) action(From{}, BF16{});
}

REFIT_CALLS_EITHER
template <typename Action>
REFIT_FUNCTION void with_types(DType from, DType to, const Action& action) {
  if (from == DType::f32) with_target<F32>(to, action);
  if (from == DType::f16) with_target<F16>(to, action);
  if (from == DType::bf16) with_target<BF16>(to, action);
}

/// Rounds a finite or infinite double once, to nearest even, to a format with `mantissa` stored bits and smallest
/// normal exponent `lowest`. Returns magnitude bits of an unbounded exponent range; the caller handles overflow and
/// sign.
REFIT_FUNCTION std::uint64_t round_magnitude(double value, int mantissa, int lowest) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(value) & 0x7FFFFFFFFFFFFFFFULL;
  int exponent = static_cast<int>(bits >> 52) - 1023;
  std::uint64_t digits = bits & 0xFFFFFFFFFFFFFULL;
  if (exponent == -1023) return 0;  // below 2^-1022: far below half of any target's smallest value
  digits |= 1ULL << 52;
  int shift = 52 - mantissa;
  std::uint64_t biased = 0;
  if (exponent < lowest) {
    shift += lowest - exponent;
    if (shift > 54) return 0;
  } else {
    biased = static_cast<std::uint64_t>(exponent - lowest);  // the leading digit adds the last 1
  }
  const std::uint64_t half = (1ULL << (shift - 1)) - 1 + ((digits >> shift) & 1U);
  return (biased << mantissa) + ((digits + half) >> shift);
}

/// A double's bits as a castable type, rounded once.
REFIT_FUNCTION std::uint32_t bits_from_double(double value, DType to) {
  if (to == DType::f32) return std::bit_cast<std::uint32_t>(static_cast<float>(value));
  const bool bf16 = to == DType::bf16;
  const std::uint64_t infinity = bf16 ? 0x7F80U : 0x7C00U;
  const std::uint64_t sign = (std::bit_cast<std::uint64_t>(value) >> 63) << 15;
  if (value != value) return static_cast<std::uint32_t>(sign | (bf16 ? 0x7FC0U : 0x7E00U));
  const std::uint64_t magnitude = bf16 ? round_magnitude(value, 7, -126) : round_magnitude(value, 10, -14);
  return static_cast<std::uint32_t>(sign | (magnitude < infinity ? magnitude : infinity));
}

}  // namespace refit::kernels
