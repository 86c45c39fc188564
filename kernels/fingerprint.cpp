#include <algorithm>

#include "kernels/elementwise.hpp"
#include "kernels/fingerprint_device.hpp"
#include "kernels/fingerprint_host.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kFingerprintElements = 512 * kKeyBlock;

template <typename From, typename To>
void launch(const ExecutionSpace& space, const Region& region, Transform transform, std::uint64_t name_hash,
            Counter* result) {
  static const std::string label = "refit::fingerprint";
  const Rows rows = rows_of(region);
  if constexpr (kOnHost) {
    const Cut pieces = cut(rows, kKeyBlock, kFingerprintElements);
    for_each_item(space, label, pieces.items, HostFingerprint<From, To>{rows, pieces, transform, name_hash, result});
  } else {
    using Functor = DeviceFingerprint<From, To>;
    const std::int64_t columns = std::clamp<std::int64_t>(rows.columns, 1, Functor::kBlock);
    const std::int64_t elements = std::min(device_item_elements(rows), columns * kFingerprintRows);
    const Cut pieces = cut(rows, Functor::kBlock, elements);
    const bool vectors = has_vector_rows(rows, sizeof(typename Functor::Source));
    for_each_team(space, label, pieces.items, Functor{rows, pieces, transform, name_hash, result, vectors},
                  Functor::kScratch);
  }
}

}  // namespace

void fingerprint(const ExecutionSpace& space, const Region& region, DType as, Transform transform,
                 std::uint64_t name_hash, Sum128* result) {
  const bool is_plain = region.dtype == as && transform == Transform::none;
  REFIT_ASSERT(is_plain || (is_castable(region.dtype) && is_castable(as)));
  const Results sums(space, 2);
  Counter* into = sums.data();
  if (!is_plain) {
    with_types(region.dtype, as, [&](auto from, auto to) {
      launch<decltype(from), decltype(to)>(space, region, transform, name_hash, into);
    });
  } else {
    with_bits_of(as, [&](auto zero) {
      using Bits = decltype(zero);
      launch<Plain<Bits>, Plain<Bits>>(space, region, transform, name_hash, into);
    });
  }
  const Counter* found = sums.wait();
  *result += Sum128{found[0], found[1]};
}

}  // namespace refit::kernels
