#include "diagnose/closeness.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <unordered_set>

#include "core/hash.hpp"
#include "kernels/bits.hpp"
#include "kernels/kernels.hpp"

namespace refit::diagnose {
namespace {

constexpr int kPerOctave = 4;
constexpr std::int64_t kMostSteps = 256;
constexpr std::size_t kFewestFlipped = 12;  ///< elements of 3 bits each: by chance, one tensor in 2^20 fits some steps
constexpr std::size_t kSamples = 64;

/// Returns the E4M3 value nearest to `value`, ties to even, saturated.
double rounded_to_e4m3(double value) {
  constexpr double kLargest = 448;
  if (value == 0 || !std::isfinite(value)) return value;
  const int exponent = std::max(-6, std::ilogb(value));
  const double unit = std::ldexp(1.0, exponent - 3);
  return std::clamp(std::nearbyint(value / unit) * unit, -kLargest, kLargest);
}

/// The different magnitudes of found and expected values.
struct Magnitudes {
  std::unordered_set<Bits> found, expected;
  std::int64_t elements = 0;

  bool is_coarse() const {
    constexpr std::size_t kLevels = 256;
    return found.size() <= kLevels && 2 * expected.size() >= 3 * found.size();
  }
};

}  // namespace

double value_of(Bits bits, DType dtype) {
  const auto word = static_cast<std::uint32_t>(bits);
  if (dtype == DType::f32) return static_cast<double>(std::bit_cast<float>(word));
  if (dtype == DType::bf16) return static_cast<double>(std::bit_cast<float>(kernels::f32_from_bf16(word)));
  if (dtype == DType::f16) return static_cast<double>(std::bit_cast<float>(kernels::f32_from_f16(word)));
  return std::nan("");
}

void Differences::add(Bits found, Bits expected, DType dtype) {
  units_ = std::max(units_, found > expected ? found - expected : expected - found);
  const double should_be = value_of(expected, dtype);
  const double relative = std::abs(value_of(found, dtype) - should_be) / std::abs(should_be);
  if (!std::isfinite(relative) || relative == 0) return;
  largest_ = std::max(largest_, relative);
  ++counts_[static_cast<int>(std::floor(kPerOctave * std::log2(relative)))];
}

void Differences::add(const Differences& other) {
  units_ = std::max(units_, other.units_);
  largest_ = std::max(largest_, other.largest_);
  for (const auto& [bucket, count] : other.counts_) counts_[bucket] += count;
}

double Differences::median() const {
  std::int64_t all = 0;
  for (const auto& [bucket, count] : counts_) all += count;
  std::int64_t below = 0;
  for (const auto& [bucket, count] : counts_) {
    below += count;
    if (2 * below >= all) return std::min(largest_, std::exp2((bucket + 0.5) / kPerOctave));
  }
  return 0;
}

Bits flipped_by(const Steps& steps, const model::Tensor& canonical, DType dtype, std::int64_t index) {
  const std::uint64_t key = hash_name(canonical.name);
  std::uint32_t bits = 0;
  for (std::int64_t step = steps.first; step <= steps.last; ++step) bits ^= kernels::perturbation(key, index, step);
  return Bits{bits} << kernels::perturbation_shift(dtype);
}

std::optional<Steps> steps_between(const model::Tensor& canonical, DType dtype, const std::vector<Flipped>& elements) {
  if (!is_castable(dtype) || elements.size() < kFewestFlipped) return std::nullopt;
  const std::uint64_t key = hash_name(canonical.name);
  const int shift = kernels::perturbation_shift(dtype);
  const std::size_t count = std::min(kSamples, elements.size());
  std::vector<std::uint32_t> wanted;
  std::vector<std::array<std::uint32_t, kMostSteps + 1>> until;  // by sample: bits flipped up to a step
  for (std::size_t i = 0; i < count; ++i) {
    const Flipped& element = elements[i * elements.size() / count];
    wanted.push_back(static_cast<std::uint32_t>(element.bits >> shift));
    const bool other_bits = (Bits{wanted.back()} << shift) != element.bits;
    if (other_bits || wanted.back() > 7) wanted.back() = 8;  // by no update
    auto& flips = until.emplace_back();
    for (std::int64_t step = 1; step <= kMostSteps; ++step) {
      const auto at = static_cast<std::size_t>(step);
      flips[at] = flips[at - 1] ^ kernels::perturbation(key, element.index, step);
    }
  }
  for (std::int64_t length = 1; length <= kMostSteps; ++length) {
    for (std::int64_t before = 0; before + length <= kMostSteps; ++before) {
      std::size_t missed = 0;
      for (std::size_t i = 0; i < count && missed * 10 <= count; ++i) {
        const std::uint32_t flips =
            until[i][static_cast<std::size_t>(before)] ^ until[i][static_cast<std::size_t>(before + length)];
        missed += flips == wanted[i] ? 0U : 1U;
      }
      if (missed * 10 <= count) return Steps{before + 1, before + length};
    }
  }
  return std::nullopt;
}

Bits cast_through(Bits bits, DType dtype, DType through) {
  const double value = value_of(bits, dtype);
  const double rounded =
      through == DType::f8_e4m3 ? rounded_to_e4m3(value) : value_of(kernels::bits_from_double(value, through), through);
  return kernels::bits_from_double(rounded, dtype);
}

std::string grid_of(const Part& part, std::span<const std::int32_t> labels, std::int32_t label) {
  constexpr std::int64_t kBlock = 128;
  constexpr std::int64_t kFewest = 64;     // fewest elements of a group that counts
  constexpr std::int64_t kMostRows = 128;  // enough rows to tell
  constexpr std::int64_t kMostColumns = 1024;
  const Bits magnitude = ~(Bits{1} << (8 * part.found.element_bytes - 1));
  const std::int64_t rows = std::min(kMostRows, part.found.rows);
  const std::int64_t columns = std::min(kMostColumns, part.found.columns);
  using Key = std::pair<std::int64_t, std::int64_t>;
  const auto is_coarse = [&](const auto& group_of) {
    std::map<Key, Magnitudes> groups;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < columns; ++column) {
        if (labels[static_cast<std::size_t>(row * part.found.columns + column)] != label) continue;
        Magnitudes& group =
            groups[group_of(part.rows[static_cast<std::size_t>(row)], part.columns[static_cast<std::size_t>(column)])];
        ++group.elements;
        group.found.insert(part.found(row, column) & magnitude);
        group.expected.insert(part.expected(row, column) & magnitude);
      }
    }
    std::int64_t telling = 0;
    std::int64_t coarse = 0;
    for (const auto& [key, group] : groups) {
      if (group.elements < kFewest) continue;
      ++telling;
      coarse += group.is_coarse() ? 1 : 0;
    }
    return telling > 0 && coarse * 20 >= telling * 19;
  };
  if (is_coarse([](std::int64_t, std::int64_t) { return Key{0, 0}; })) return "8 bits can tell all values";
  if (is_coarse([](std::int64_t row, std::int64_t column) { return Key{row / kBlock, column / kBlock}; }))
    return "8 bits can tell the values of a block of 128 x 128";
  if (is_coarse([](std::int64_t row, std::int64_t) { return Key{row, 0}; }))
    return "8 bits can tell the values of a row";
  return "";
}

int mantissa_bits(Bits bits, DType dtype) {
  const int stored = dtype == DType::f32 ? 23 : dtype == DType::bf16 ? 7 : 10;
  const Bits mantissa = bits & ((Bits{1} << stored) - 1);
  return mantissa == 0 ? 0 : stored - std::countr_zero(mantissa);
}

}  // namespace refit::diagnose
