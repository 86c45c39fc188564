// Quantised copies by teams of device lanes: a persistent grid whose teams walk over the items.
//
// A 128 x 128 block is read once: it stays in the registers of its team's 256 lanes, 16 neighbours of each of four rows
// a lane, until all of them know its maximum. A 1 x 32 block is held by two lanes, 16 elements each. Items that cannot
// be read in vectors, or that have parts of blocks, are read element by element, and twice.
//
// Each kind of item that a table has is launched by itself.

#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/flags_device.hpp"
#include "kernels/lane_values.hpp"
#include "kernels/launch.hpp"
#include "kernels/quantise_items.hpp"

namespace refit::kernels {

namespace {

constexpr int kWarps = kLanes / kWarp;
constexpr int kBlock = block_size(Quantiser::nemo_rl).rows;

/// Returns the bytes of 16 elements, none of whose products is NaN.
template <typename From>
KOKKOS_FORCEINLINE_FUNCTION Unit16 quantised(const Values& values, float factor) {
  std::uint64_t words[2] = {0, 0};
  REFIT_UNROLL
  for (int p = 0; p < kElements / 2; ++p) {
    float pair[2];
    floats_of(From{}, values.word(p), pair);
    const std::uint64_t two =
        __nv_cvt_float2_to_fp8x2(make_float2(pair[0] * factor, pair[1] * factor), __NV_SATFINITE, __NV_E4M3);
    words[p / 4] |= two << (16 * (p % 4));
  }
  return {words[0], words[1]};
}

template <typename From>
KOKKOS_FORCEINLINE_FUNCTION float value_at(const QuantiseItem& item, std::int64_t row, std::int64_t column) {
  constexpr std::int64_t kSize = sizeof(typename From::Bits);
  return float_of<From>(load<typename From::Bits>(item.value(row, column, kSize), 0));
}

/// Work on an item of any kind, element by element.
template <typename From>
KOKKOS_INLINE_FUNCTION void quantise_elements(const QuantiseItem& item, const Interval& rows, const Interval& columns,
                                              float factor, int lane, int lanes) {
  const Quantiser quantiser = item.quantiser;
  LaneWalk at(static_cast<std::uint32_t>(lane), static_cast<std::uint32_t>(lanes),
              static_cast<std::uint32_t>(columns.size()));
  for (; at.row < rows.size(); at.next()) {
    const std::int64_t row = rows.begin + at.row;
    const std::int64_t column = columns.begin + at.column;
    store(item.byte(row, column), 0, quantise_value(quantiser, value_at<From>(item, row, column), factor));
  }
}

/// The items of a team, one after the other. They lie in its scratch memory, where the next one is put while the team
/// works on the current one: reading fields from the table would take as long each as a block's values.
class ItemsOfTeam {
 public:
  static constexpr int kWords = sizeof(QuantiseItem) / sizeof(std::uint64_t);
  static_assert(sizeof(QuantiseItem) % sizeof(std::uint64_t) == 0 && kWords <= kLanes);

  struct Scratch {
    std::uint64_t items[2][kWords];
    std::uint32_t numbers[2][kWarps];  ///< of a block and the one before it
  };

  template <typename Member>
  KOKKOS_FORCEINLINE_FUNCTION ItemsOfTeam(const CopyRun& run, std::int64_t count, const Member& member)
      : run_(run),
        count_(count),
        scratch_(static_cast<Scratch*>(member.team_scratch(0).get_shmem(static_cast<int>(sizeof(Scratch))))) {}

  /// Calls work(item) for each item, between its flags.
  template <typename Member, typename Work>
  KOKKOS_FORCEINLINE_FUNCTION void for_each(const Member& member, const Work& work) {
    const int lane = member.team_rank();
    std::int64_t i = member.league_rank();
    int slot = 0;
    if (lane < kWords) scratch_->items[0][lane] = word(i, lane);
    member.team_barrier();
    for (; i < count_; i += member.league_size(), slot = 1 - slot) {
      const auto& item = *reinterpret_cast<const QuantiseItem*>(scratch_->items[slot]);
      const std::uint64_t next = lane < kWords ? word(i + member.league_size(), lane) : 0;
      await_flag(item, run_.epoch, member);
      work(item);
      raise_flag(item, run_, member);
      if (lane < kWords) scratch_->items[1 - slot][lane] = next;
      member.team_barrier();
    }
  }

  /// Returns the largest number of all lanes to all of them. Calls use the two rows of `numbers` in turn: a lane has
  /// read one before the next call's barrier, after which it is written again.
  template <typename Member>
  KOKKOS_FORCEINLINE_FUNCTION std::uint32_t largest(std::uint32_t number, const Member& member) {
    turn_ = 1 - turn_;
    std::uint32_t* numbers = scratch_->numbers[turn_];
    number = largest_of_lanes(number);
    if (member.team_rank() % kWarp == 0) numbers[member.team_rank() / kWarp] = number;
    member.team_barrier();
    REFIT_UNROLL
    for (int w = 0; w < kWarps; ++w) number = larger(number, numbers[w]);
    return number;
  }

 private:
  KOKKOS_FORCEINLINE_FUNCTION std::uint64_t word(std::int64_t item, int index) const {
    return item < count_ ? reinterpret_cast<const std::uint64_t*>(run_.quantised + item)[index] : 0;
  }

  const CopyRun& run_;
  std::int64_t count_;
  Scratch* scratch_;
  int turn_ = 0;
};

/// Work on 128 x 128 blocks that the source has. Where the item has only a part of a block, only that is stored.
struct BlocksInSource {
  CopyRun run;
  std::int64_t count;

  static constexpr int kAcross = kBlock / kElements;  ///< lanes that share a row
  static constexpr int kRows = kLanes / kAcross;      ///< rows that the lanes hold at a time
  static constexpr int kTimes = kBlock / kRows;
  static constexpr int kTeams = 3;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    ItemsOfTeam items(run, count, member);
    items.for_each(member, [&](const QuantiseItem& item) {
      if (item.from == DType::bf16) {
        quantise<BF16>(item, items, member);
      } else {
        quantise<F16>(item, items, member);
      }
    });
  }

  template <typename From, typename Member>
  KOKKOS_FORCEINLINE_FUNCTION static void quantise(const QuantiseItem& item, ItemsOfTeam& items, const Member& member) {
    const BlockShift shift = block_shift(Quantiser::nemo_rl);
    const auto down = static_cast<int>(blocks_of(item.rows, shift.rows));
    const auto across = static_cast<int>(blocks_of(item.columns, shift.columns));
    const int row = member.team_rank() / kAcross;
    const int column = member.team_rank() % kAcross * kElements;
    for (int b = 0; b < down * across; ++b) {
      const BlockOfItem block(item, shift, b / across, b % across);
      const std::int64_t source_step = 2 * kRows * item.source_stride[0];
      const std::byte* from = item.value(block.rows.begin + row, block.columns.begin + column, 2);
      const int rows = column < block.columns.size() ? static_cast<int>(block.rows.size()) - row : 0;
      Values values[kTimes];
      LargestHalf largest;
      REFIT_UNROLL
      for (int k = 0; k < kTimes; ++k) {
        values[k] = Values{};
        if (k * kRows < rows) values[k] = load_values(from + k * source_step);
      }
      REFIT_UNROLL
      for (int k = 0; k < kTimes; ++k) largest.add(values[k]);
      const std::uint32_t bits = items.largest(largest.bits(), member);
      std::uint32_t amax = std::bit_cast<std::uint32_t>(float_of<From>(static_cast<std::uint16_t>(bits)));
      if (block.is_ragged) amax = larger(amax, padding_of<From>(item));
      const BlockScale scale = block_scale(item.quantiser, std::bit_cast<float>(amax), From::kType);
      if (has_numbers(amax, scale)) {
        store_part(item, block, row, column, [&](int k) { return quantised<From>(values[k], scale.factor); });
      } else {
        quantise_elements<From>(item, block.item_rows, block.item_columns, scale.factor, member.team_rank(), kLanes);
      }
      store_scales(item, block, scale.stored, member.team_rank(), kLanes);
    }
  }

  /// Stores the part of a lane's values that is the item's: bytes(k) at row + k * kRows.
  template <typename Bytes>
  KOKKOS_FORCEINLINE_FUNCTION static void store_part(const QuantiseItem& item, const BlockOfItem& block, int row,
                                                     int column, const Bytes& bytes) {
    const std::int64_t at = block.columns.begin + column;
    const bool stores = at >= block.item_columns.begin && at < block.item_columns.end;
    const int first = static_cast<int>(block.item_rows.begin - block.rows.begin) - row;
    const int end = stores ? static_cast<int>(block.item_rows.end - block.rows.begin) - row : 0;
    const std::int64_t step = kRows * item.destination_stride[0];
    std::byte* to = item.byte(block.rows.begin + row, at);
    REFIT_UNROLL
    for (int k = 0; k < kTimes; ++k) {
      if (k * kRows >= first && k * kRows < end) store(to + k * step, 0, bytes(k));
    }
  }
};

/// Work on rows of whole 1 x 32 blocks.
struct WholeRows {
  CopyRun run;
  std::int64_t count;

  static constexpr int kInFlight = 2;  ///< positions of a lane that are read before the first is written
  static constexpr int kTeams = 4;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    ItemsOfTeam(run, count, member).for_each(member, [&](const QuantiseItem& item) {
      if (item.from == DType::bf16) {
        quantise<BF16>(item, member.team_rank());
      } else {
        quantise<F16>(item, member.team_rank());
      }
    });
  }

  /// Lanes go through rows of an even number of positions, so that neighbours have halves of one block, and all lanes
  /// go equally often, so that neighbours always meet.
  template <typename From>
  KOKKOS_FORCEINLINE_FUNCTION static void quantise(const QuantiseItem& item, int lane) {
    const auto rows = static_cast<std::uint32_t>(item.rows.size());
    const auto across = static_cast<std::uint32_t>(item.columns.size() / kElements);
    LaneWalk at(static_cast<std::uint32_t>(lane), kLanes, across);
    for (std::uint32_t first = 0; first < rows * across; first += kLanes * kInFlight) {
      Values values[kInFlight];
      std::uint32_t row[kInFlight];
      std::uint32_t column[kInFlight];
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) {
        row[k] = at.row;
        column[k] = at.column;
        values[k] = Values{};
        if (row[k] < rows) {
          values[k] = load_values(item.source + 2 * (row[k] * item.source_stride[0] + column[k] * kElements));
        }
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) {
        LargestHalf largest;
        largest.add(values[k]);
        const std::uint32_t bits = largest_of_lanes(largest.bits(), 2);
        const std::uint32_t amax = std::bit_cast<std::uint32_t>(float_of<From>(static_cast<std::uint16_t>(bits)));
        const BlockScale scale = block_scale(item.quantiser, std::bit_cast<float>(amax), From::kType);
        if (row[k] >= rows) continue;
        if (has_numbers(amax, scale)) {
          store(item.destination + row[k] * item.destination_stride[0] + column[k] * kElements, 0,
                quantised<From>(values[k], scale.factor));
        } else {
          const Interval of_row{item.rows.begin + row[k], item.rows.begin + row[k] + 1};
          const std::int64_t first_column = item.columns.begin + column[k] * kElements;
          quantise_elements<From>(item, of_row, {first_column, first_column + kElements}, scale.factor, 0, 1);
        }
        if (item.scales != nullptr && column[k] % 2 == 0) {
          store(item.scales, row[k] * item.scale_stride[0] + column[k] / 2 * item.scale_stride[1],
                static_cast<std::uint8_t>(scale.stored));
        }
      }
    }
  }
};

/// Work on any blocks, types and strides: a team for a 128 x 128 block, a warp for a 1 x 32 block.
struct AnyBlocks {
  CopyRun run;
  std::int64_t count;

  static constexpr int kTeams = 3;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    ItemsOfTeam items(run, count, member);
    items.for_each(member, [&](const QuantiseItem& item) { quantise_typed(item, items, member); });
  }

  template <typename Member>
  KOKKOS_INLINE_FUNCTION static void quantise_typed(const QuantiseItem& item, ItemsOfTeam& items,
                                                    const Member& member) {
    with_types(item.from, item.from, [&](auto from, auto) { quantise<decltype(from)>(item, items, member); });
  }

  template <typename From, typename Member>
  KOKKOS_INLINE_FUNCTION static void quantise(const QuantiseItem& item, ItemsOfTeam& items, const Member& member) {
    const bool by_warps = is_mx(item.quantiser);
    const int lane = by_warps ? member.team_rank() % kWarp : member.team_rank();
    const int lanes = by_warps ? kWarp : kLanes;
    const BlockShift shift = block_shift(item.quantiser);
    const std::int64_t across = blocks_of(item.columns, shift.columns);
    const std::int64_t blocks = across * blocks_of(item.rows, shift.rows);
    for (std::int64_t b = by_warps ? member.team_rank() / kWarp : 0; b < blocks; b += by_warps ? kWarps : 1) {
      const BlockOfItem block(item, shift, b / across, b % across);
      const bool raises = item.destination == nullptr;
      std::uint32_t amax = 0;
      if (raises || block.is_in_source) {
        amax = largest<From>(item, raises ? block.item_rows : block.rows, raises ? block.item_columns : block.columns,
                             lane, lanes);
        amax = by_warps ? largest_of_lanes(amax) : items.largest(amax, member);
      } else {
        amax = *block.maximum;
      }
      if (raises) {
        if (lane == 0) Kokkos::atomic_fetch_max(block.maximum, amax);
        continue;
      }
      if (block.is_ragged) amax = larger(amax, padding_of<From>(item));
      const BlockScale scale = block_scale(item.quantiser, std::bit_cast<float>(amax), From::kType);
      quantise_elements<From>(item, block.item_rows, block.item_columns, scale.factor, lane, lanes);
      store_scales(item, block, scale.stored, lane, lanes);
    }
  }

  /// Returns the largest magnitude of the values that a lane reads.
  template <typename From>
  KOKKOS_FORCEINLINE_FUNCTION static std::uint32_t largest(const QuantiseItem& item, const Interval& rows,
                                                           const Interval& columns, int lane, int lanes) {
    std::uint32_t result = 0;
    LaneWalk at(static_cast<std::uint32_t>(lane), static_cast<std::uint32_t>(lanes),
                static_cast<std::uint32_t>(columns.size()));
    for (; at.row < rows.size(); at.next()) {
      result = larger(result, magnitude_bits(value_at<From>(item, rows.begin + at.row, columns.begin + at.column)));
    }
    return result;
  }
};

/// One launch of as many teams as the device holds at a time.
template <typename Functor>
void launch(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor) {
  using Policy = Kokkos::TeamPolicy<Device, Kokkos::LaunchBounds<kLanes, Functor::kTeams>>;
  constexpr int kLanesOfMultiprocessor = 2048;
  if (count == 0) return;
  const Device& device = space.implementation().device;
  const std::int64_t all = std::int64_t{std::max(1, device.concurrency() / kLanesOfMultiprocessor)} * Functor::kTeams;
  Policy policy(device, static_cast<int>(std::min(count, all)), kLanes);
  policy.set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(sizeof(ItemsOfTeam::Scratch))));
  Kokkos::parallel_for(label, policy, functor);
}

}  // namespace

void run_quantised(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kQuantiseKinds]) {
  static const std::string blocks = "refit::quantise";
  static const std::string rows = "refit::quantise_rows";
  static const std::string any = "refit::quantise_any";
  CopyRun rest = run;
  launch(space, blocks, counts[0], BlocksInSource{rest, counts[0]});
  rest.quantised += counts[0];
  launch(space, rows, counts[1], WholeRows{rest, counts[1]});
  rest.quantised += counts[1];
  launch(space, any, counts[2], AnyBlocks{rest, counts[2]});
}

void load_quantisers(const ExecutionSpace& space) {
  const std::string label = "refit::load";
  launch(space, label, 1, BlocksInSource{{}, 0});
  launch(space, label, 1, WholeRows{{}, 0});
  launch(space, label, 1, AnyBlocks{{}, 0});
}

}  // namespace refit::kernels
