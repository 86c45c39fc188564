#include "kernels/processed.hpp"

#include "kernels/launch.hpp"

namespace refit::kernels {
namespace {

using Policy = Kokkos::RangePolicy<Device, Kokkos::IndexType<std::int64_t>>;

struct MakeNumbers {
  NumberRule rule;
  const float* scales;
  const float* factors;
  float* destination;
  bool repeats;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index) const {
    const std::int64_t group = repeats ? 0 : index;
    const float number = processed_number(rule, scales, group);
    destination[index] = factors == nullptr ? number : number * processed_number(rule, factors, group);
  }
};

struct MakeBytes {
  ByteRule rule;
  const std::uint8_t* source;
  const float* scales;
  std::uint8_t* destination;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index) const {
    destination[index] = processed_byte(rule, source, scales, index);
  }
};

}  // namespace

void process(const ExecutionSpace& space, const NumberRule& rule, const std::byte* scales, const std::byte* factors,
             std::byte* destination, std::int64_t count, bool repeats) {
  static const std::string label = "refit::process_numbers";
  const MakeNumbers make{rule, reinterpret_cast<const float*>(scales), reinterpret_cast<const float*>(factors),
                         reinterpret_cast<float*>(destination), repeats};
  Kokkos::parallel_for(label, Policy(space.implementation().device, 0, count), make);
}

void process(const ExecutionSpace& space, const ByteRule& rule, const std::byte* source, const std::byte* scales,
             std::byte* destination) {
  static const std::string label = "refit::process_bytes";
  const MakeBytes make{rule, reinterpret_cast<const std::uint8_t*>(source), reinterpret_cast<const float*>(scales),
                       reinterpret_cast<std::uint8_t*>(destination)};
  const std::int64_t count = rule.matrices * rule.padded_rows() * rule.padded_columns();
  Kokkos::parallel_for(label, Policy(space.implementation().device, 0, count), make);
}

}  // namespace refit::kernels
