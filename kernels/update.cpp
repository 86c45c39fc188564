#include <cmath>

#include "kernels/elementwise.hpp"
#include "kernels/perturb_rows.hpp"

namespace refit::kernels {

namespace {

/// Elements of a castable type on a device.
template <typename Type>
struct Perturb {
  using Bits = typename Type::Bits;
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = true;
  static constexpr int kBits = 8 * sizeof(Bits);
  static constexpr int kElements = 64 / kBits;  ///< of a word
  static constexpr int kShift = perturbation_shift(Type::kType);
  std::uint64_t mixed;  ///< key and step

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits bits, std::int64_t index, std::int64_t) const {
    return perturbed<Type>(bits, own_bits(perturbation_bits(mixed, index / 4), index));
  }

  /// Changes all elements of a word at once likewise.
  KOKKOS_INLINE_FUNCTION std::uint64_t word(std::uint64_t bits, std::int64_t index) const {
    constexpr std::uint64_t kOnes = ~std::uint64_t{0} / static_cast<Bits>(~Bits{0});  // 1 in every element
    constexpr std::uint64_t kExponent = perturbation_exponent<Type>();
    const int begin = 16 * static_cast<int>(index % 4);
    std::uint64_t random = perturbation_bits(mixed, index / 4) >> begin;
    if (begin > 64 - 16 * kElements) random |= perturbation_bits(mixed, index / 4 + 1) << (64 - begin);
    std::uint64_t masks = 0;
    REFIT_UNROLL
    for (int i = 0; i < kElements; ++i) {
      masks |= static_cast<std::uint64_t>(perturbation_mask(own_bits(random, i))) << (kBits * i + kShift);
    }
    // An exponent of ones and its lowest bit carry into the sign's place, whence 7 << kShift takes the element's mask.
    constexpr std::uint64_t kLowest = kExponent & (~kExponent + 1);
    const std::uint64_t carries = ((bits & kOnes * kExponent) + kOnes * kLowest) & kOnes << (kBits - 1);
    const std::uint64_t kept = (carries >> (kBits - kShift - 4)) - (carries >> (kBits - kShift - 1));
    return bits ^ (masks & ~kept);
  }
};

/// The same by one host thread.
template <typename Type>
struct HostPerturb {
  Rows rows;
  Cut pieces;
  std::uint64_t mixed;

  void operator()(std::int64_t index) const {
    constexpr auto kSize = static_cast<std::int64_t>(sizeof(typename Type::Bits));
    const Cut::Item item = pieces.item(rows, index);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      std::byte* first = rows.data + (row.offset + item.column * rows.column_stride) * kSize;
      perturb_row(Type{}, first, rows.column_stride, item.columns, mixed,
                  row.global * rows.row_length + rows.first_column + item.column);
    }
  }
};

/// Flips the lowest bit. `kept`: bits that E4M3's largest value and NaN (0x7E), or E8M0's and NaN (0xFE), have in
/// common, and which stay as they are; 0 for other types.
template <typename Bits>
struct FlipLowest {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = true;
  std::uint8_t kept;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits bits, std::int64_t, std::int64_t) const {
    return kept != 0 && (bits & kept) == kept ? bits : static_cast<Bits>(bits ^ 1U);
  }

  /// Changes all elements of a word at once likewise.
  KOKKOS_INLINE_FUNCTION std::uint64_t word(std::uint64_t bits, std::int64_t) const {
    constexpr std::uint64_t kOnes = ~std::uint64_t{0} / static_cast<Bits>(~Bits{0});
    if (kept == 0) return bits ^ kOnes;
    // Bits 1 to 6, all set, and 2 carry into bit 7, which E8M0 must have set itself too.
    std::uint64_t carries = (bits & kOnes * 0x7EU) + kOnes * 2U;
    if (kept == 0xFEU) carries &= bits;
    return bits ^ (kOnes & ~(carries >> 7));
  }
};

std::uint8_t kept_bits(DType dtype) {
  if (dtype == DType::f8_e4m3) return 0x7EU;
  return dtype == DType::f8_e8m0 || dtype == DType::u8 ? 0xFEU : 0U;
}

/// Returns a double as one byte: an E4M3 value (saturated), else the nearest whole number.
KOKKOS_INLINE_FUNCTION std::uint32_t byte_from_double(double value, DType to) {
  if (to != DType::f8_e4m3) return static_cast<std::uint32_t>(value + 0.5);
  const std::uint64_t magnitude = round_magnitude(value, 3, -6);
  return (value < 0 ? 0x80U : 0U) | (magnitude < 0x7EU ? static_cast<std::uint32_t>(magnitude) : 0x7EU);
}

template <typename Bits>
struct Deviate {
  static constexpr bool kReads = false;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  std::uint64_t key;
  double mean;
  double unit;
  DType dtype;

  KOKKOS_INLINE_FUNCTION Bits operator()(Bits, std::int64_t index, std::int64_t) const {
    const std::uint64_t random = combine(key, static_cast<std::uint64_t>(index));
    if (dtype == DType::i32) return static_cast<Bits>(random >> 16);
    const std::uint64_t sum = (random & 0xFFFFU) + (random >> 16 & 0xFFFFU) + (random >> 32 & 0xFFFFU) + (random >> 48);
    const double deviate = static_cast<double>(static_cast<std::int64_t>(sum) - 2 * 0xFFFF);
    const double value = mean + unit * deviate;
    return static_cast<Bits>(sizeof(Bits) == 1 ? byte_from_double(value, dtype) : bits_from_double(value, dtype));
  }
};

/// Returns scale x the distance of neighbouring deviates, cut to 32 bits: its product with an 18-bit deviate is then
/// exact, and the value is the same whether or not a compiler fuses the product with the sum.
double deviate_unit(double scale) {
  constexpr double kUnit = 1.7320508075688772 / 65536.0;  // four uniforms of variance 1/12 have variance 1/3
  int exponent = 0;
  const double digits = std::frexp(scale * kUnit, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(digits, 32)), exponent - 32);
}

template <typename Type>
void perturb_values(const ExecutionSpace& space, const std::string& label, const Region& region, std::uint64_t mixed) {
  if constexpr (kOnHost) {
    const Rows rows = joined(rows_of(region));
    const Cut pieces = cut(rows, kItemElements, kItemElements);
    for_each_item(space, label, pieces.items, HostPerturb<Type>{rows, pieces, mixed});
  } else {
    for_each_element<typename Type::Bits>(space, label, region, Perturb<Type>{mixed});
  }
}

/// Changes those elements alone whose random bits say so.
template <typename Change>
struct PerturbSome {
  static constexpr bool kReads = true;
  static constexpr bool kWrites = true;
  static constexpr bool kWords = false;
  Change change;
  std::uint64_t mixed, bound;

  template <typename Bits>
  KOKKOS_INLINE_FUNCTION Bits operator()(Bits bits, std::int64_t index, std::int64_t place) const {
    return is_perturbed(mixed, index, bound) ? change(bits, index, place) : bits;
  }
};

void perturb_some(const ExecutionSpace& space, const std::string& label, const Region& region, std::uint64_t mixed,
                  std::uint64_t bound) {
  const auto run = [&](auto change, auto zero) {
    for_each_element<decltype(zero)>(space, label, region, PerturbSome<decltype(change)>{change, mixed, bound});
  };
  switch (region.dtype) {
    case DType::f32: return run(Perturb<F32>{mixed}, F32::Bits{});
    case DType::f16: return run(Perturb<F16>{mixed}, F16::Bits{});
    case DType::bf16: return run(Perturb<BF16>{mixed}, BF16::Bits{});
    default: break;
  }
  with_bits_of(region.dtype, [&](auto zero) { run(FlipLowest<decltype(zero)>{kept_bits(region.dtype)}, zero); });
}

}  // namespace

void perturb(const ExecutionSpace& space, const Region& region, std::uint64_t key, std::int64_t step, double fraction) {
  static const std::string label = "refit::perturb";
  const std::uint64_t mixed = combine(key, static_cast<std::uint64_t>(step));
  if (fraction < 1) return perturb_some(space, label, region, mixed, perturbation_bound(fraction));
  switch (region.dtype) {
    case DType::f32: return perturb_values<F32>(space, label, region, mixed);
    case DType::f16: return perturb_values<F16>(space, label, region, mixed);
    case DType::bf16: return perturb_values<BF16>(space, label, region, mixed);
    default: break;
  }
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, FlipLowest<Bits>{kept_bits(region.dtype)});
  });
}

void synthesise(const ExecutionSpace& space, const Region& region, std::uint64_t key, double mean, double scale) {
  static const std::string label = "refit::synthesise";
  REFIT_ASSERT(is_castable(region.dtype) || byte_size(region.dtype) == 1 || region.dtype == DType::i32);
  const double unit = deviate_unit(scale);
  with_bits_of(region.dtype, [&](auto zero) {
    using Bits = decltype(zero);
    for_each_element<Bits>(space, label, region, Deviate<Bits>{key, mean, unit, region.dtype});
  });
}

void flip_bit(const ExecutionSpace& space, std::byte* byte) {
  static const std::string label = "refit::flip_bit";
  const Region region{byte, DType::u8, Box::whole({1}), {1}, {1}};
  for_each_element<std::uint8_t>(space, label, region, FlipLowest<std::uint8_t>{0});
  space.fence();
}

}  // namespace refit::kernels
