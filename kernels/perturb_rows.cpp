#include "kernels/perturb_rows.hpp"

#include <algorithm>
#include <bit>

namespace refit::kernels {

namespace {

static_assert(std::endian::native == std::endian::little, "an element's own bits are the 16 at its place in memory");

/// Makes the random bits of a block, then changes its elements: two loops of one width each, which vectorise.
template <typename Type>
REFIT_FORCEINLINE void perturb_elements(std::byte* data, std::int64_t stride, std::int64_t count, std::uint64_t mixed,
                                        std::int64_t index) {
  using Bits = typename Type::Bits;
  constexpr std::int64_t kBlock = 1024;
  for (std::int64_t begin = 0; begin < count;) {
    const std::int64_t skipped = (index + begin) % 4;
    const std::int64_t size = std::min(kBlock - skipped, count - begin);
    std::uint64_t random[kBlock / 4];
    for (std::int64_t i = 0; i < (skipped + size + 3) / 4; ++i) {
      random[i] = perturbation_bits(mixed, (index + begin) / 4 + i);
    }
    const std::byte* own = reinterpret_cast<const std::byte*>(random);
    if (stride == 1) {
      for (std::int64_t i = 0; i < size; ++i) {
        const std::uint32_t bits = load<std::uint16_t>(own, skipped + i);
        store(data, begin + i, perturbed<Type>(load<Bits>(data, begin + i), bits));
      }
    } else {
      for (std::int64_t i = 0; i < size; ++i) {
        const std::int64_t at = (begin + i) * stride;
        store(data, at, perturbed<Type>(load<Bits>(data, at), load<std::uint16_t>(own, skipped + i)));
      }
    }
    begin += size;
  }
}

}  // namespace

#define REFIT_PERTURB_ROW(TYPE)                                                                       \
  REFIT_HOST_VECTORS void perturb_row(TYPE, std::byte* data, std::int64_t stride, std::int64_t count, \
                                      std::uint64_t mixed, std::int64_t index) {                      \
    perturb_elements<TYPE>(data, stride, count, mixed, index);                                        \
  }
REFIT_PERTURB_ROW(F32)
REFIT_PERTURB_ROW(F16)
REFIT_PERTURB_ROW(BF16)
#undef REFIT_PERTURB_ROW

}  // namespace refit::kernels
