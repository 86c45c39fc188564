#pragma once
// Random strided arrays for the kernel tests, addressed element by element and independently of any kernel.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"
#include "unit/kernels_memory.hpp"

namespace refit::kernels_test {

using Random = std::mt19937_64;

inline std::int64_t pick(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

/// Calls visit(index, row-major position) for every index of a box of that extent.
inline void for_each_index(const Extents& extent, const std::function<void(const Extents&, std::int64_t)>& visit) {
  const std::int64_t volume = product(extent);
  for (std::int64_t linear = 0; linear < volume; ++linear) {
    Extents index = Extents::filled(extent.size(), 0);
    std::int64_t rest = linear;
    for (int d = extent.size() - 1; d >= 0; --d) {
      index[d] = rest % extent[d];
      rest /= extent[d];
    }
    visit(index, linear);
  }
}

inline std::uint64_t read_bits(const std::byte* base, std::int64_t element, DType dtype) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, base + element * byte_size(dtype), static_cast<std::size_t>(byte_size(dtype)));
  return bits;
}

inline void write_bits(std::byte* base, std::int64_t element, DType dtype, std::uint64_t bits) {
  std::memcpy(base + element * byte_size(dtype), &bits, static_cast<std::size_t>(byte_size(dtype)));
}

/// Strides of an array of that extent: dimensions in random order, with gaps after some.
inline Extents random_strides(Random& random, const Extents& extent) {
  std::vector<int> order(static_cast<std::size_t>(extent.size()));
  std::iota(order.begin(), order.end(), 0);
  std::reverse(order.begin(), order.end());
  if (pick(random, 0, 2) == 0) std::shuffle(order.begin(), order.end(), random);
  Extents strides = Extents::filled(extent.size(), 0);
  std::int64_t next = pick(random, 0, 3) == 0 ? 2 : 1;
  for (int d : order) {
    strides[d] = next;
    next *= extent[d] + (pick(random, 0, 2) == 0 ? pick(random, 1, 3) : 0);
  }
  return strides;
}

inline Extents random_extent(Random& random, int dimensions, std::int64_t largest) {
  Extents extent;
  for (int d = 0; d < dimensions; ++d) extent.push_back(pick(random, 0, 3) == 0 ? 1 : pick(random, 1, largest));
  return extent;
}

/// Memory of a strided array, filled with random bytes.
inline Bytes random_memory(Random& random, const Extents& extent, const Extents& strides, DType dtype) {
  std::int64_t elements = 1;
  for (int d = 0; d < extent.size(); ++d) elements += (extent[d] - 1) * strides[d];
  Bytes memory(static_cast<std::size_t>(elements * byte_size(dtype)));
  for (std::byte& value : memory) value = static_cast<std::byte>(random() & 0xFFU);
  return memory;
}

/// Returns a setting of the environment.
inline std::int64_t setting(const char* name, std::int64_t otherwise) {
  const char* given = std::getenv(name);
  return given == nullptr ? otherwise : std::atoll(given);
}

inline constexpr DType kAllTypes[] = {
    DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2, DType::f8_e8m0, DType::i64,
    DType::i32, DType::i16, DType::i8,  DType::u64,  DType::u32,     DType::u16,     DType::u8,      DType::boolean};
inline constexpr DType kCastable[] = {DType::f32, DType::f16, DType::bf16};

}  // namespace refit::kernels_test
