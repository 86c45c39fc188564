#include "kernels/delta_rows.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/bits.hpp"

namespace refit::kernels {

namespace {

static_assert(std::endian::native == std::endian::little, "an element's flag is the byte at its place in a word");

/// Writes 1 or 0 for each element: a loop of one width, which vectorises.
template <typename T>
REFIT_FORCEINLINE void write_flags(const std::byte* a, const std::byte* b, std::int64_t count, std::uint8_t* flags) {
  for (std::int64_t i = 0; i < count; ++i) flags[i] = load<T>(a, i) != load<T>(b, i) ? 1 : 0;
}

#define REFIT_FLAGS(TYPE, NAME)                                                                                \
  REFIT_HOST_VECTORS void NAME(const std::byte* a, const std::byte* b, std::int64_t count, std::uint8_t* to) { \
    write_flags<TYPE>(a, b, count, to);                                                                        \
  }
REFIT_FLAGS(std::uint8_t, flags_of_1)
REFIT_FLAGS(std::uint16_t, flags_of_2)
REFIT_FLAGS(std::uint32_t, flags_of_4)
REFIT_FLAGS(std::uint64_t, flags_of_8)
#undef REFIT_FLAGS

}  // namespace

std::int64_t changed_bits(const std::byte* a, const std::byte* b, std::int64_t count, std::int64_t bytes,
                          std::uint64_t* words) {
  const std::int64_t all = (count + 63) / 64;
  std::fill_n(words, all, 0);
  if (std::memcmp(a, b, static_cast<std::size_t>(count * bytes)) == 0) return 0;
  alignas(64) std::uint8_t flags[kDeltaStretch];
  std::fill(flags + count, flags + 64 * all, std::uint8_t{0});
  switch (bytes) {
    case 1: flags_of_1(a, b, count, flags); break;
    case 2: flags_of_2(a, b, count, flags); break;
    case 4: flags_of_4(a, b, count, flags); break;
    default: flags_of_8(a, b, count, flags); break;
  }
  std::int64_t changed = 0;
  for (std::int64_t w = 0; w < all; ++w) {
    for (int byte = 0; byte < 8; ++byte) {
      std::uint64_t eight = 0;
      std::memcpy(&eight, flags + 64 * w + 8 * byte, sizeof(eight));
      words[w] |= (eight * 0x0102040810204080ULL >> 56) << (8 * byte);  // flag i of the eight becomes bit i
    }
    changed += std::popcount(words[w]);
  }
  return changed;
}

}  // namespace refit::kernels
