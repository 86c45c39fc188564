#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

template <typename Bits>
struct Differ {
  const std::byte* expected;
  Counter* results;  ///< count, lowest index

  KOKKOS_INLINE_FUNCTION void operator()(std::byte* address, std::int64_t, std::int64_t index) const {
    if (load<Bits>(address, 0) == load<Bits>(expected, index)) return;
    Kokkos::atomic_fetch_add(&results[0], Counter{1});
    Kokkos::atomic_fetch_min(&results[1], static_cast<Counter>(index));
  }
};

}  // namespace

Difference count_differences(const ExecutionSpace& space, const Region& region, const std::byte* expected) {
  static const std::string label = "refit::count_differences";
  Results<Counter> results(2);
  results.host()[0] = 0;
  results.host()[1] = ~Counter{0};
  results.to_device();
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Differ<Bits>{expected, results.data()});
  });
  const Counter* found = results.wait(space);
  if (found[0] == 0) return {};
  return {static_cast<std::int64_t>(found[0]), static_cast<std::int64_t>(found[1])};
}

}  // namespace refit::kernels
