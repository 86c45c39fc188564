#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

/// Bits of a small float with `mantissa` stored bits: magnitudes above `largest` become `beyond`.
std::uint64_t small_float(double value, int mantissa, int lowest, std::uint64_t largest, std::uint64_t beyond) {
  const std::uint64_t sign = std::signbit(value) ? 0x80U : 0U;
  const std::uint64_t magnitude = std::isnan(value) ? 0x7FU : round_magnitude(value, mantissa, lowest);
  return sign | (magnitude <= largest ? magnitude : (std::isnan(value) ? 0x7FU : beyond));
}

/// F8_E8M0 holds powers of two only.
std::uint64_t exponent_bits(double value) {
  int exponent = 0;
  if (std::isnan(value)) return 0xFFU;
  if (std::frexp(value, &exponent) != 0.5 || exponent < -126 || exponent > 128) {
    fail_usage("cannot fill an F8_E8M0 storage with {}: it holds powers of two from 2^-127 to 2^127", value);
  }
  return static_cast<std::uint64_t>(exponent + 126);
}

/// The bits of `value` as `dtype`, rounded once; integers take the nearest integer.
std::uint64_t constant_bits(double value, DType dtype) {
  switch (dtype) {
    case DType::f64: return std::bit_cast<std::uint64_t>(value);
    case DType::f32:
    case DType::f16:
    case DType::bf16: return bits_from_double(value, dtype);
    case DType::f8_e5m2: return small_float(value, 2, -14, 0x7BU, 0x7CU);
    case DType::f8_e4m3: return small_float(value, 3, -6, 0x7EU, 0x7FU);
    case DType::f8_e8m0: return exponent_bits(value);
    case DType::boolean: return value != 0.0 ? 1U : 0U;
    case DType::u64: return static_cast<std::uint64_t>(std::nearbyint(value));
    default: return static_cast<std::uint64_t>(static_cast<std::int64_t>(std::nearbyint(value)));
  }
}

template <typename Bits>
struct Fill {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  Bits value;
  KOKKOS_INLINE_FUNCTION Bits operator()(Bits, std::int64_t, std::int64_t) const { return value; }
};

}  // namespace

void fill(const ExecutionSpace& space, std::byte* data, DType dtype, const Extents& extent, const Extents& strides,
          double value) {
  static const std::string label = "refit::fill";
  const std::uint64_t bits = constant_bits(value, dtype);
  const Region region{data, dtype, Box::whole(extent), extent, strides};
  with_bits_of(dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Fill<Bits>{static_cast<Bits>(bits)});
  });
}

void poison(const ExecutionSpace& space, std::byte* data, std::int64_t bytes) {
  static const std::string label = "refit::poison";
  // The bytes between multiples of 16 can be written in vectors.
  constexpr std::int64_t kVector = 16;
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) % kVector);
  const std::int64_t head = std::min(bytes, (kVector - address) % kVector);
  const std::int64_t tail = head + (bytes - head) / kVector * kVector;
  for (const auto& [begin, end] : {std::pair{std::int64_t{0}, head}, {head, tail}, {tail, bytes}}) {
    const std::int64_t size = end - begin;
    const Region region{data + begin, DType::u8, Box::whole({size}), {size}, {1}};
    for_each_element<std::uint8_t>(space, label, region, Fill<std::uint8_t>{kPoison});
  }
}

}  // namespace refit::kernels
