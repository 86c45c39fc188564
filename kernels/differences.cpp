#include "kernels/count.hpp"
#include "kernels/elementwise.hpp"

namespace refit::kernels {

namespace {

template <typename Bits>
struct Differs {
  const std::byte* expected;

  KOKKOS_FORCEINLINE_FUNCTION bool operator()(Bits stored, std::int64_t index) const {
    return stored != load<Bits>(expected, index);
  }
};

}  // namespace

Difference count_differences(const ExecutionSpace& space, const Region& region, const std::byte* expected) {
  static const std::string label = "refit::count_differences";
  Difference result;
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    result = count_where<Bits>(space, label, region, Differs<Bits>{expected});
  });
  return result;
}

}  // namespace refit::kernels
