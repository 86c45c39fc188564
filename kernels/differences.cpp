#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

template <typename Bits>
struct Differ {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = false;
  static constexpr bool kWords = false;
  const std::byte* expected;
  Counter* results;  ///< count, complement of the lowest index

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits stored, std::int64_t, std::int64_t index) const {
    if (stored == load<Bits>(expected, index)) return stored;
    Kokkos::atomic_fetch_add(&results[0], Counter{1});
    Kokkos::atomic_fetch_max(&results[1], ~static_cast<Counter>(index));
    return stored;
  }
};

}  // namespace

Difference count_differences(const ExecutionSpace& space, const Region& region, const std::byte* expected) {
  static const std::string label = "refit::count_differences";
  const Results results(space, 2);
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Differ<Bits>{expected, results.data()});
  });
  const Counter* found = results.wait();
  if (found[0] == 0) return {};
  return {static_cast<std::int64_t>(found[0]), static_cast<std::int64_t>(~found[1])};
}

}  // namespace refit::kernels
