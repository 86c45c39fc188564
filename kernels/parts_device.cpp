// Parts of weights by teams of device lanes, a team for an item. A lane has 16 neighbouring values at a time, which it
// reads and writes in vectors where these are aligned. A block of scales is one lane, or some neighbouring ones.

#include <cuda_fp8.h>

#include "kernels/lane_values.hpp"
#include "kernels/launch.hpp"
#include "kernels/part_items.hpp"
#include "kernels/part_numbers.hpp"

namespace refit::kernels {

namespace {

constexpr int kInFlight = 2;  ///< positions of a lane that are read before the first is worked on

/// 16 values of four bytes.
struct WideValues {
  Unit16 quarter[4];

  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t word(int index) const {
    const Unit16& of = quarter[index / 4];
    return static_cast<std::uint32_t>((index % 4 < 2 ? of.low : of.high) >> (32 * (index % 2)));
  }
};

template <typename From>
using ValuesOf = std::conditional_t<std::is_same_v<From, F32>, WideValues, Values>;

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION ValuesOf<From> load_vectors(const std::byte* data) {
  if constexpr (std::is_same_v<From, F32>) {
    return {{load<Unit16>(data, 0), load<Unit16>(data, 1), load<Unit16>(data, 2), load<Unit16>(data, 3)}};
  } else {
    return load_values(data);
  }
}

/// Loads `count` values of any stride; the others are zero.
template <typename From>
KOKKOS_FORCEINLINE_FUNCTION ValuesOf<From> load_elements(const std::byte* data, std::int64_t stride, int count) {
  constexpr int kPerWord = 8 / static_cast<int>(sizeof(typename From::Bits));
  std::uint64_t words[kElements / kPerWord];
  REFIT_UNROLL
  for (int w = 0; w < kElements / kPerWord; ++w) {
    words[w] = 0;
    REFIT_UNROLL
    for (int i = 0; i < kPerWord; ++i) {
      const int at = w * kPerWord + i;
      const std::uint64_t bits = at < count ? load<typename From::Bits>(data, at * stride) : 0;
      words[w] |= bits << (i * 64 / kPerWord);
    }
  }
  if constexpr (std::is_same_v<From, F32>) {
    return {{{words[0], words[1]}, {words[2], words[3]}, {words[4], words[5]}, {words[6], words[7]}}};
  } else {
    return {{{words[0], words[1]}, {words[2], words[3]}}};
  }
}

KOKKOS_FORCEINLINE_FUNCTION std::uint32_t largest_of(F32, const WideValues& values) {
  std::uint32_t largest = 0;
  REFIT_UNROLL
  for (int i = 0; i < kElements; ++i) largest = larger(largest, values.word(i) & 0x7FFFFFFFU);
  return largest;
}
template <typename From>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t largest_of(From, const Values& values) {
  LargestHalf largest;
  largest.add(values);
  return largest.bits();
}

/// Returns magnitude_bits of the largest magnitude of a type.
template <typename From>
KOKKOS_FORCEINLINE_FUNCTION std::uint32_t float_bits(std::uint32_t magnitude) {
  return static_cast<std::uint32_t>(convert<From, F32>(static_cast<typename From::Bits>(magnitude)));
}

/// Returns two neighbouring values, none of which is NaN.
KOKKOS_FORCEINLINE_FUNCTION void pair_of(F32, const WideValues& values, int pair, float* to) {
  to[0] = std::bit_cast<float>(values.word(2 * pair));
  to[1] = std::bit_cast<float>(values.word(2 * pair + 1));
}
template <typename From>
KOKKOS_FORCEINLINE_FUNCTION void pair_of(From from, const Values& values, int pair, float* to) {
  floats_of(from, values.word(pair), to);
}

/// The places of a lane in an item: 16 columns of a row.
struct Position {
  std::uint32_t row;
  std::int64_t column;
  int count;  ///< less than 16 at the end of a row; 0 beyond the item

  KOKKOS_FORCEINLINE_FUNCTION Position() : row(0), column(0), count(0) {}
  KOKKOS_FORCEINLINE_FUNCTION Position(const PartItem& item, const LaneWalk& at)
      : row(at.row), column(std::int64_t{at.column} * kElements), count(0) {
    if (row >= item.rows) return;
    count = item.columns - column < kElements ? static_cast<int>(item.columns - column) : kElements;
  }
};

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION const std::byte* address(const PartItem& item, const Position& at) {
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  return item.source + kSize * (at.row * item.source_stride[0] + at.column * item.source_stride[1]);
}

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION ValuesOf<From> load_at(const PartItem& item, const Position& at) {
  const std::byte* data = address<From>(item, at);
  if (item.reads_vectors && at.count == kElements) return load_vectors<From>(data);
  return load_elements<From>(data, item.source_stride[1], at.count);
}

/// Raises a word of amax to the largest number of a warp.
KOKKOS_FORCEINLINE_FUNCTION void raise(std::uint32_t* word, std::uint32_t number, int lane) {
  number = largest_of_lanes(number);
  // The word only grows: where a look says that it is as large, it is.
  if (lane % kWarp == 0 && number > *static_cast<volatile std::uint32_t*>(word)) {
    Kokkos::atomic_fetch_max(word, number);
  }
}

struct DeviceAmax {
  const PartItem* items;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr) return;
    const PartItem item = items[member.league_rank()];
    with_types(item.from, item.from, [&](auto from, auto) { raise_amax<decltype(from)>(item, member.team_rank()); });
  }

  /// The whole team goes through rows with one word; a warp goes through a row with a word of its own.
  template <typename From>
  KOKKOS_FORCEINLINE_FUNCTION static void raise_amax(const PartItem& item, int lane) {
    const auto across = static_cast<std::uint32_t>((item.columns + kElements - 1) / kElements);
    if (item.amax_stride == 0) {
      const LaneWalk at(static_cast<std::uint32_t>(lane), kLanes, across);
      return raise(item.amax, float_bits<From>(largest_at<From>(item, at, static_cast<std::uint32_t>(item.rows))),
                   lane);
    }
    for (auto row = static_cast<std::uint32_t>(lane / kWarp); row < item.rows; row += kLanes / kWarp) {
      LaneWalk at(static_cast<std::uint32_t>(lane % kWarp), kWarp, across);
      at.row += row;
      raise(item.amax + row, float_bits<From>(largest_at<From>(item, at, row + 1)), lane);
    }
  }

  /// Returns the largest magnitude of a lane's values in the rows before `end`.
  template <typename From>
  KOKKOS_FORCEINLINE_FUNCTION static std::uint32_t largest_at(const PartItem& item, LaneWalk at, std::uint32_t end) {
    constexpr int kLoads = sizeof(typename From::Bits) == 4 ? 2 : 4;
    std::uint32_t largest = 0;
    while (at.row < end) {
      ValuesOf<From> values[kLoads];
      REFIT_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        values[k] = ValuesOf<From>{};
        if (at.row < end) values[k] = load_at<From>(item, Position(item, at));
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kLoads; ++k) largest = larger(largest, largest_of(From{}, values[k]));
    }
    return largest;
  }
};

/// What is stored of 16 values: bytes, or nibbles in the first half.
template <typename Numbers, typename From>
KOKKOS_FORCEINLINE_FUNCTION Unit16 elements_of_numbers(From from, const ValuesOf<From>& values,
                                                       const Numbers& numbers) {
  float all[kElements];
  REFIT_UNROLL
  for (int p = 0; p < kElements / 2; ++p) pair_of(from, values, p, all + 2 * p);
  std::uint64_t words[2] = {0, 0};
  if constexpr (Numbers::Steps::kIsPacked) {
    constexpr std::uint32_t kCodes = std::bit_cast<std::uint32_t>(kE2m1Code) * 0x11111111U;
    REFIT_UNROLL
    for (int w = 0; w < 2; ++w) {
      std::uint32_t word = 0;
      REFIT_UNROLL
      for (int i = 7; i >= 0; --i) {
        word = 16 * word + std::bit_cast<std::uint32_t>(numbers.nibble_code(all[8 * w + i]));
      }
      words[0] |= std::uint64_t{word - kCodes} << (32 * w);
    }
  } else {
    REFIT_UNROLL
    for (int p = 0; p < kElements / 2; ++p) {
      const float2 kept = make_float2(numbers.kept_number(all[2 * p]), numbers.kept_number(all[2 * p + 1]));
      const std::uint64_t both = __nv_cvt_float2_to_fp8x2(kept, __NV_SATFINITE, __NV_E4M3);
      words[p / 4] |= both << (16 * (p % 4));
    }
  }
  return {words[0], words[1]};
}

/// The same of any `count` values, one after the other, read from memory again.
template <typename Steps>
KOKKOS_INLINE_FUNCTION Unit16 elements_of(const std::byte* data, std::int64_t stride, int count, const Scaling& by) {
  using From = typename Steps::Type;
  std::uint64_t words[2] = {0, 0};
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const std::uint64_t element = Steps::element(float_of<From>(load<typename From::Bits>(data, i * stride)), by);
    const int shift = Steps::kIsPacked ? 4 * i : 8 * (i % 8);
    if (Steps::kIsPacked || i < 8) {
      words[0] |= element << shift;
    } else {
      words[1] |= element << shift;
    }
  }
  return {words[0], words[1]};
}

template <StoredFormat format, Library library>
struct DeviceParts {
  const PartItem* items;

  static constexpr bool kIsPacked = element_bits(format) == 4;
  static constexpr unsigned kTeams = kIsPacked ? 4 : 3;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    if (items == nullptr) return;
    const PartItem item = items[member.league_rank()];
    with_types(item.from, item.from, [&](auto from, auto) {
      quantise<PartSteps<format, library, decltype(from)>>(item, member.team_rank());
    });
  }

  /// All lanes go equally often, so that neighbours who share a block always meet.
  template <typename Steps>
  KOKKOS_FORCEINLINE_FUNCTION static void quantise(const PartItem& item, int lane) {
    using From = typename Steps::Type;
    const float amax = item.amax == nullptr || item.amax_stride != 0 ? 0.0F : std::bit_cast<float>(*item.amax);
    const float tensor = Steps::tensor_scale(amax);
    if (lane == 0 && item.tensor_scale != nullptr) {
      store_number(item.tensor_scale, 0, DType::f32, Steps::stored_tensor_scale(tensor));
    }
    const Scaling of_all = Steps::kHasBlocks ? Scaling{} : Steps::scaling(amax, 0.0F);
    const auto across = static_cast<std::uint32_t>((item.columns + kElements - 1) / kElements);
    const std::uint32_t positions = static_cast<std::uint32_t>(item.rows) * across;
    LaneWalk at(static_cast<std::uint32_t>(lane), kLanes, across);
    for (std::uint32_t first = 0; first < positions; first += kLanes * kInFlight) {
      ValuesOf<From> values[kInFlight];
      Position position[kInFlight];
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) {
        position[k] = Position(item, at);
        values[k] = ValuesOf<From>{};
        if (position[k].count > 0) values[k] = load_at<From>(item, position[k]);
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) quantise_at<Steps>(item, position[k], values[k], tensor, amax, of_all);
    }
  }

  template <typename Steps>
  KOKKOS_FORCEINLINE_FUNCTION static void quantise_at(const PartItem& item, const Position& at,
                                                      const ValuesOf<typename Steps::Type>& values, float tensor,
                                                      float amax_of_all, const Scaling& of_all) {
    using From = typename Steps::Type;
    std::uint32_t amax = std::bit_cast<std::uint32_t>(amax_of_all);
    Scaling by = of_all;
    if constexpr (Steps::kHasBlocks) {
      const int lanes = format == StoredFormat::nvfp4 ? 1 : format == StoredFormat::mxfp4 ? 2 : item.block / kElements;
      amax = float_bits<From>(largest_of_lanes(largest_of(From{}, values), lanes));
      by = Steps::scaling(std::bit_cast<float>(amax), tensor);
    }
    if (at.count == 0) return;
    if (!Steps::kHasBlocks && item.amax_stride != 0) {
      amax = item.amax[at.row];
      by = Steps::scaling(std::bit_cast<float>(amax), 0.0F);
    }
    Unit16 elements;
    const PartNumbers<format, library, From> numbers(amax, by);
    if (at.count == kElements && Steps::has_numbers(amax, by) && numbers.are_usual()) {
      elements = elements_of_numbers(From{}, values, numbers);
    } else {
      elements = elements_of<Steps>(address<From>(item, at), item.source_stride[1], at.count, by);
    }
    store_elements(item, at, elements);
    if (item.scales != nullptr) store_scale<Steps>(item, at, by);
  }

  KOKKOS_FORCEINLINE_FUNCTION static void store_elements(const PartItem& item, const Position& at,
                                                         const Unit16& elements) {
    std::byte* to = item.values + at.row * item.value_stride + (kIsPacked ? at.column / 2 : at.column);
    if (item.writes_vectors && at.count == kElements) {
      if constexpr (kIsPacked) {
        store(to, 0, elements.low);
      } else {
        store(to, 0, elements);
      }
      return;
    }
    const int bytes = kIsPacked ? at.count / 2 : at.count;
#pragma unroll 1
    for (int i = 0; i < bytes; ++i) {
      const std::uint64_t word = i < 8 ? elements.low : elements.high;
      store(to, i, static_cast<std::uint8_t>(word >> (8 * (i % 8))));
    }
  }

  /// The lane with a block's, a row's or the part's first values stores the scale.
  template <typename Steps>
  KOKKOS_FORCEINLINE_FUNCTION static void store_scale(const PartItem& item, const Position& at, const Scaling& by) {
    if constexpr (Steps::kHasBlocks) {
      const int block = format == StoredFormat::nvfp4 ? 16 : format == StoredFormat::mxfp4 ? 32 : item.block;
      const auto column = static_cast<std::uint32_t>(at.column);
      if (column % static_cast<std::uint32_t>(block) != 0) return;
      const std::int64_t index = at.row * item.scale_stride + column / static_cast<std::uint32_t>(block);
      if constexpr (is_int4(format)) {
        store_number(item.scales, index, item.scale_dtype, by.stored);
      } else {
        store(item.scales, index, by.byte);
      }
    } else if (at.column == 0 && (item.amax_stride != 0 || at.row == 0)) {
      store_number(item.scales, at.row * item.scale_stride, item.scale_dtype, by.stored);
    }
  }
};

}  // namespace

void run_amax(const ExecutionSpace& space, const PartItem* items, std::int64_t count) {
  static const std::string label = "refit::amax";
  for_each_team<4>(space, label, items == nullptr ? 1 : count, DeviceAmax{items});
}

void run_parts(const ExecutionSpace& space, const PartItem* items, std::int64_t count, int kind) {
  static const std::string label = "refit::quantise_parts";
  const std::int64_t teams = items == nullptr ? 1 : count;
  int index = 0;
#define REFIT_LAUNCH(format, library)                                  \
  if (index++ == kind) {                                               \
    using Parts = DeviceParts<StoredFormat::format, Library::library>; \
    for_each_team<Parts::kTeams>(space, label, teams, Parts{items});   \
  }
  REFIT_PART_QUANTISERS(REFIT_LAUNCH)
#undef REFIT_LAUNCH
}

}  // namespace refit::kernels
