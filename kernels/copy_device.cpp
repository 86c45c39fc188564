// Copies by teams of device lanes: a persistent grid whose teams walk over the items.
//
// Rows of 16-byte units are moved as they are. Other contiguous rows are written in aligned chunks of 16 bytes: their
// source bytes lie in two aligned words, which are shifted together, or are converted; rows that are cast and consist
// of aligned words at both ends are converted word by word. Items whose ends run along different dimensions go through
// tiles in a team's scratch memory. Other items are moved element by element.
//
// Each kind of item that a table has is launched by itself: one kernel for all would need the registers of the most
// demanding kind.

#include <algorithm>

#include "kernels/bits.hpp"
#include "kernels/copy_items.hpp"
#include "kernels/flags_device.hpp"
#include "kernels/launch.hpp"
#include "kernels/transform.hpp"
#include "kernels/transpose_device.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kItemBytes = 128 * 1024;
constexpr int kWarp = 32;
constexpr int kInFlight = 4;  ///< loads of a lane before its first store
constexpr std::int64_t kChunk = 16;

/// The two inner dimensions of an item: rows of elements.
struct Plane {
  const std::byte* source;
  std::byte* destination;
  std::uint32_t rows;
};

/// Calls body(plane, lane, lanes) for every plane: by the whole team where a plane has work for all of it, else by a
/// warp. `from` and `to` are bytes of an element of either end, `steps` a row's share of the work.
template <typename Body>
KOKKOS_FORCEINLINE_FUNCTION void for_each_plane(const CopyItem& item, std::int64_t from, std::int64_t to,
                                                std::int64_t steps, int lane, const Body& body) {
  const int group = item.extent[2] * steps >= kCopyLanes ? kCopyLanes : kWarp;
  const auto planes = static_cast<std::uint32_t>(item.extent[0] * item.extent[1]);
  const auto inner = static_cast<std::uint32_t>(item.extent[1]);
  for (auto p = static_cast<std::uint32_t>(lane / group); p < planes; p += kCopyLanes / group) {
    const std::int64_t i = p / inner;
    const std::int64_t j = p % inner;
    const Plane plane{item.source + from * (i * item.source_stride[0] + j * item.source_stride[1]),
                      item.destination + to * (i * item.destination_stride[0] + j * item.destination_stride[1]),
                      static_cast<std::uint32_t>(item.extent[2])};
    body(plane, LaneWalk(static_cast<std::uint32_t>(lane % group), static_cast<std::uint32_t>(group),
                         static_cast<std::uint32_t>(steps)));
  }
}

/// Copies elements of any strides, and converts each with `convert`; also the fast path of rows of 16-byte units.
template <typename Source, typename Target, int batch = kInFlight, typename Convert>
KOKKOS_FORCEINLINE_FUNCTION void copy_elements(const CopyItem& item, int lane, const Convert& convert) {
  constexpr std::int64_t kFrom = sizeof(Source);
  constexpr std::int64_t kTo = sizeof(Target);
  const std::int64_t source_row = kFrom * item.source_stride[2];
  const std::int64_t source_step = kFrom * item.source_stride[3];
  const std::int64_t row = kTo * item.destination_stride[2];
  const std::int64_t step = kTo * item.destination_stride[3];
  for_each_plane(item, kFrom, kTo, item.extent[3], lane, [&](const Plane& plane, LaneWalk at) {
    while (at.row < plane.rows) {
      Source stored[batch];
      std::byte* to[batch];
      REFIT_UNROLL
      for (int k = 0; k < batch; ++k) {
        to[k] = nullptr;
        if (at.row < plane.rows) {
          stored[k] = load<Source>(plane.source + at.row * source_row + at.column * source_step, 0);
          to[k] = plane.destination + at.row * row + at.column * step;
        }
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < batch; ++k) {
        if (to[k] != nullptr) store<Target>(to[k], 0, convert(stored[k]));
      }
    }
  });
}

/// Returns 16 bytes that begin `bytes` (0 to 15) bytes into two words.
KOKKOS_FORCEINLINE_FUNCTION Unit16 shifted(const Unit16& first, const Unit16& second, std::uint32_t bytes) {
  const bool upper = bytes >= 8;
  const std::uint64_t a = upper ? first.high : first.low;
  const std::uint64_t b = upper ? second.low : first.high;
  const std::uint64_t c = upper ? second.high : second.low;
  const std::uint32_t bits = 8 * (bytes % 8);
  return {a >> bits | (b << 1) << (63 - bits), b >> bits | (c << 1) << (63 - bits)};
}

/// A chunk of a row: the elements [first, first + kChunk bytes) of it, whose destination is aligned; `first` may be
/// negative, and the end beyond the row's.
struct Chunk {
  const std::byte* source;  ///< of the row
  std::byte* destination;   ///< of the row
  std::int32_t first;

  template <std::int32_t size>
  KOKKOS_FORCEINLINE_FUNCTION static Chunk at(const Plane& plane, const LaneWalk& at, std::int64_t source_row,
                                              std::int64_t row) {
    Chunk result{plane.source + at.row * source_row, plane.destination + at.row * row, 0};
    const auto head = static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(result.destination) % kChunk);
    result.first = (static_cast<std::int32_t>(at.column * kChunk) - head) / size;
    return result;
  }
};

/// Copies the elements of a chunk that lie in the row, one by one.
template <typename Source, typename Target, typename Convert>
KOKKOS_FORCEINLINE_FUNCTION void copy_edge(const Chunk& chunk, std::int32_t count, const Convert& convert) {
  constexpr int kElements = kChunk / sizeof(Target);
  Source stored[kElements];
  REFIT_UNROLL
  for (int i = 0; i < kElements; ++i) {
    const std::int32_t at = chunk.first + i;
    if (at >= 0 && at < count) stored[i] = load<Source>(chunk.source, at);
  }
  REFIT_UNROLL
  for (int i = 0; i < kElements; ++i) {
    const std::int32_t at = chunk.first + i;
    if (at >= 0 && at < count) store<Target>(chunk.destination, at, convert(stored[i]));
  }
}

/// The bytes of a row that are written in whole chunks: those whose destination is aligned, and whose source lies in
/// one or two aligned words of the row. Words that reach beyond the row may reach beyond the memory.
struct WholeChunks {
  std::int32_t begin, end;
  std::uint32_t shift;  ///< bytes by which the source is off alignment there

  KOKKOS_FORCEINLINE_FUNCTION WholeChunks(const std::byte* source, const std::byte* destination, std::int32_t bytes) {
    constexpr auto kMask = static_cast<std::uint32_t>(kChunk - 1);
    constexpr auto kStep = static_cast<std::int32_t>(kChunk);
    const std::uint32_t head = (0U - address(destination)) & kMask;
    shift = (address(source) + head) & kMask;
    begin = static_cast<std::int32_t>(head) + (shift > head ? kStep : 0);
    begin = begin < bytes ? begin : bytes;
    const std::int32_t length = bytes - begin - (shift == 0 ? 0 : kStep - static_cast<std::int32_t>(shift));
    end = begin + (length > 0 ? length & ~(kStep - 1) : 0);
  }
  KOKKOS_FORCEINLINE_FUNCTION static std::uint32_t address(const std::byte* data) {
    return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(data));
  }
};

/// Copies contiguous rows of T whose ends are aligned to no common unit of 16 bytes: first their whole chunks, then the
/// elements left at both ends of the rows.
template <typename T>
KOKKOS_FORCEINLINE_FUNCTION void copy_shifted(const CopyItem& item, int lane) {
  constexpr std::int64_t kSize = sizeof(T);
  constexpr std::int32_t kEnd = 2 * kChunk / kSize;  // elements at most that are left at either end
  const auto bytes = static_cast<std::int32_t>(item.extent[3] * kSize);
  const std::int64_t source_row = kSize * item.source_stride[2];
  const std::int64_t row = kSize * item.destination_stride[2];
  for_each_plane(item, kSize, kSize, bytes < kChunk ? 1 : bytes / kChunk, lane, [&](const Plane& plane, LaneWalk at) {
    while (at.row < plane.rows) {
      Unit16 low[kInFlight];
      Unit16 high[kInFlight];
      std::uint32_t shift[kInFlight];
      std::byte* to[kInFlight];
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) {
        to[k] = nullptr;
        if (at.row < plane.rows) {
          const std::byte* source = plane.source + at.row * source_row;
          std::byte* destination = plane.destination + at.row * row;
          const WholeChunks whole(source, destination, bytes);
          const std::int32_t first = whole.begin + static_cast<std::int32_t>(at.column * kChunk);
          if (first < whole.end) {
            shift[k] = whole.shift;
            to[k] = destination + first;
            const std::byte* from = source + first - whole.shift;
            low[k] = load<Unit16>(from, 0);
            high[k] = low[k];
            if (whole.shift != 0) high[k] = load<Unit16>(from, 1);
          }
        }
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kInFlight; ++k) {
        if (to[k] != nullptr) store(to[k], 0, shifted(low[k], high[k], shift[k]));
      }
    }
  });
  for_each_plane(item, kSize, kSize, 2 * kEnd, lane, [&](const Plane& plane, LaneWalk at) {
    while (at.row < plane.rows) {
      const std::byte* source = plane.source + at.row * source_row;
      std::byte* destination = plane.destination + at.row * row;
      const WholeChunks whole(source, destination, bytes);
      const auto slot = static_cast<std::int32_t>(at.column);
      const std::int32_t head = whole.begin / static_cast<std::int32_t>(kSize);
      const std::int32_t element = slot < kEnd ? slot : slot - kEnd + whole.end / static_cast<std::int32_t>(kSize);
      if (slot < kEnd ? element < head : element * static_cast<std::int32_t>(kSize) < bytes) {
        store(destination, element, load<T>(source, element));
      }
      at.next();
    }
  });
}

/// Reads the source elements of a whole chunk, by the widest loads that their address allows.
template <typename Source, int elements>
KOKKOS_FORCEINLINE_FUNCTION void load_elements(const std::byte* from, Source* stored) {
  constexpr int kSize = sizeof(Source);
  constexpr int kWord = kSize * elements < 16 ? kSize * elements : 16;
  if (reinterpret_cast<std::uintptr_t>(from) % kWord == 0) {
    constexpr int kHalf = 8 / kSize;
    REFIT_UNROLL
    for (int w = 0; w < kSize * elements / kWord; ++w) {
      Unit16 unit{};
      if constexpr (kWord == 16) {
        unit = load<Unit16>(from, w);
      } else {
        unit.low = load<std::uint64_t>(from, w);
      }
      REFIT_UNROLL
      for (int i = 0; i < kWord / kSize; ++i) {
        const std::uint64_t half = i < kHalf ? unit.low : unit.high;
        stored[w * kWord / kSize + i] = static_cast<Source>(half >> (8 * kSize * (i % kHalf)));
      }
    }
  } else {
    REFIT_UNROLL
    for (int i = 0; i < elements; ++i) stored[i] = load<Source>(from, i);
  }
}

/// Copies contiguous rows that are cast.
template <typename From, typename To>
KOKKOS_FORCEINLINE_FUNCTION void copy_cast(const CopyItem& item, int lane) {
  using Source = typename From::Bits;
  using Target = typename To::Bits;
  constexpr std::int64_t kFrom = sizeof(Source);
  constexpr std::int64_t kTo = sizeof(Target);
  constexpr int kElements = kChunk / kTo;
  constexpr int kBatch = kElements * kFrom > kChunk ? kInFlight / 2 : kInFlight;
  const auto cast = [](Source bits) { return convert<From, To>(bits); };
  const auto count = static_cast<std::int32_t>(item.extent[3]);
  const std::int64_t source_row = kFrom * item.source_stride[2];
  const std::int64_t row = kTo * item.destination_stride[2];
  const std::int64_t chunks = (count * kTo + 2 * (kChunk - 1)) / kChunk;
  for_each_plane(item, kFrom, kTo, chunks, lane, [&](const Plane& plane, LaneWalk at) {
    while (at.row < plane.rows) {
      Chunk chunk[kBatch];
      Source stored[kBatch][kElements];
      bool is_whole[kBatch];
      bool is_edge[kBatch];
      REFIT_UNROLL
      for (int k = 0; k < kBatch; ++k) {
        is_whole[k] = is_edge[k] = false;
        if (at.row < plane.rows) {
          chunk[k] = Chunk::at<kTo>(plane, at, source_row, row);
          is_whole[k] = chunk[k].first >= 0 && chunk[k].first + kElements <= count;
          is_edge[k] = !is_whole[k] && chunk[k].first < count;
          if (is_whole[k]) load_elements<Source, kElements>(chunk[k].source + chunk[k].first * kFrom, stored[k]);
        }
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kBatch; ++k) {
        if (is_whole[k]) {
          std::uint64_t words[2] = {0, 0};
          REFIT_UNROLL
          for (int i = 0; i < kElements; ++i) {
            words[i / (kElements / 2)] |= static_cast<std::uint64_t>(cast(stored[k][i]))
                                          << (8 * kTo * (i % (kElements / 2)));
          }
          store(chunk[k].destination + chunk[k].first * kTo, 0, Unit16{words[0], words[1]});
        }
        if (is_edge[k]) copy_edge<Source, Target>(chunk[k], count, cast);
      }
    }
  });
}

/// Casts of words: of as many neighbours as fill 16 bytes of the longer type.
template <typename From, typename To>
struct CastWords {
  static constexpr std::int64_t kFrom = sizeof(typename From::Bits);
  static constexpr std::int64_t kTo = sizeof(typename To::Bits);
  static constexpr std::int64_t kElements = kChunk / (kFrom > kTo ? kFrom : kTo);
  using Source = std::conditional_t<kElements * kFrom == 16, Unit16, std::uint64_t>;
  using Target = std::conditional_t<kElements * kTo == 16, Unit16, std::uint64_t>;

  KOKKOS_FORCEINLINE_FUNCTION static std::uint64_t& half(std::uint64_t& word, std::int64_t) { return word; }
  KOKKOS_FORCEINLINE_FUNCTION static std::uint64_t& half(Unit16& word, std::int64_t index) {
    return index == 0 ? word.low : word.high;
  }
  KOKKOS_FORCEINLINE_FUNCTION Target operator()(Source stored) const {
    Target result{};
    REFIT_UNROLL
    for (std::int64_t i = 0; i < kElements; ++i) {
      const std::uint64_t word = half(stored, i * kFrom / 8) >> (8 * (i * kFrom % 8));
      const auto bits = convert<From, To>(static_cast<typename From::Bits>(word));
      half(result, i * kTo / 8) |= static_cast<std::uint64_t>(bits) << (8 * (i * kTo % 8));
    }
    return result;
  }

  /// Makes the same item in words; returns false where it does not consist of words.
  KOKKOS_FORCEINLINE_FUNCTION static bool fit(const CopyItem& item, CopyItem& words) {
    bool result = reinterpret_cast<std::uintptr_t>(item.source) % sizeof(Source) == 0 &&
                  reinterpret_cast<std::uintptr_t>(item.destination) % sizeof(Target) == 0 &&
                  item.extent[3] % kElements == 0;
    words = item;
    words.extent[3] /= kElements;
    REFIT_UNROLL
    for (int d = 0; d < 3; ++d) {
      result = result && item.source_stride[d] % kElements == 0 && item.destination_stride[d] % kElements == 0;
      words.source_stride[d] /= kElements;
      words.destination_stride[d] /= kElements;
    }
    return result;
  }
};

template <typename T>
KOKKOS_FORCEINLINE_FUNCTION void move(const CopyItem& item, int lane) {
  copy_elements<T, T>(item, lane, [](const T& bits) { return bits; });
}

template <typename From, typename To>
KOKKOS_FORCEINLINE_FUNCTION void cast(const CopyItem& item, int lane) {
  using Source = typename From::Bits;
  using Target = typename To::Bits;
  if (item.transform != Transform::none) {
    const Transform how = item.transform;
    return copy_elements<Source, Target, 1>(item, lane,
                                            [how](Source bits) { return transformed<From, To>(bits, how); });
  }
  if constexpr (!std::is_same_v<From, To>) {
    if (item.source_stride[3] == 1 && item.destination_stride[3] == 1) {
      using Words = CastWords<From, To>;
      CopyItem words;
      if (!Words::fit(item, words)) return copy_cast<From, To>(item, lane);
      return copy_elements<typename Words::Source, typename Words::Target>(words, lane, Words{});
    }
    copy_elements<Source, Target>(item, lane, [](Source bits) { return convert<From, To>(bits); });
  }
}

struct MovedCopies {
  CopyRun run;
  std::int64_t count;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const int lane = member.team_rank();
    for (std::int64_t i = member.league_rank(); i < count; i += member.league_size()) {
      const CopyItem item = run.items[i];  // whole and at once: one wait for the memory
      await_flag(item, run.epoch, member);
      switch (item.unit) {
        case 1: move<std::uint8_t>(item, lane); break;
        case 2: move<std::uint16_t>(item, lane); break;
        case 4: move<std::uint32_t>(item, lane); break;
        case 8: move<std::uint64_t>(item, lane); break;
        default: move<Unit16>(item, lane); break;
      }
      raise_flag(item, run, member);
    }
  }
};

struct ShiftedCopies {
  CopyRun run;
  std::int64_t count;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const int lane = member.team_rank();
    for (std::int64_t i = member.league_rank(); i < count; i += member.league_size()) {
      const CopyItem item = run.items[i];  // whole and at once: one wait for the memory
      await_flag(item, run.epoch, member);
      switch (item.unit) {
        case 1: copy_shifted<std::uint8_t>(item, lane); break;
        case 2: copy_shifted<std::uint16_t>(item, lane); break;
        case 4: copy_shifted<std::uint32_t>(item, lane); break;
        default: copy_shifted<std::uint64_t>(item, lane); break;
      }
      raise_flag(item, run, member);
    }
  }
};

struct ConvertedCopies {
  CopyRun run;
  std::int64_t count;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    for (std::int64_t i = member.league_rank(); i < count; i += member.league_size()) {
      const CopyItem item = run.items[i];
      await_flag(item, run.epoch, member);
      copy(item, member.team_rank());
      raise_flag(item, run, member);
    }
  }
  KOKKOS_INLINE_FUNCTION static void copy(const CopyItem& item, int lane) {
    with_types(item.from, item.to, [&](auto from, auto to) { cast<decltype(from), decltype(to)>(item, lane); });
  }
};

struct TransposedCopies {
  CopyRun run;
  std::int64_t count;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    auto* scratch = static_cast<std::byte*>(member.team_scratch(0).get_shmem(static_cast<int>(kTileScratch)));
    for (std::int64_t i = member.league_rank(); i < count; i += member.league_size()) {
      const CopyItem item = run.items[i];  // whole and at once: one wait for the memory
      await_flag(item, run.epoch, member);
      switch (item.unit) {
        case 1: transpose<Plain<std::uint8_t>, Plain<std::uint8_t>>(item, member, scratch); break;
        case 2: transpose_shorts(item, member, scratch); break;
        case 4: transpose<Plain<std::uint32_t>, Plain<std::uint32_t>>(item, member, scratch); break;
        case 8: transpose<Plain<std::uint64_t>, Plain<std::uint64_t>>(item, member, scratch); break;
        default: cast_item(item, member, scratch); break;
      }
      raise_flag(item, run, member);
    }
  }
  template <typename Member>
  KOKKOS_INLINE_FUNCTION static void cast_item(const CopyItem& item, const Member& member, std::byte* scratch) {
    with_types(item.from, item.to,
               [&](auto from, auto to) { transpose<decltype(from), decltype(to)>(item, member, scratch); });
  }
};

/// A plain range: its items are made on the way.
struct RangeCopy {
  const std::byte* source;
  std::byte* destination;
  std::int64_t bytes;
  std::int32_t unit;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    for (std::int64_t i = member.league_rank(); i * kItemBytes < bytes; i += member.league_size()) {
      const std::int64_t begin = i * kItemBytes;
      const std::int64_t size = bytes - begin < kItemBytes ? bytes - begin : kItemBytes;
      const CopyItem item{
          source + begin, destination + begin, {1, 1, 1, size / unit}, {0, 0, 0, 1}, {0, 0, 0, 1}, unit, -1, false,
          DType::u8,      DType::u8,           Transform::none,        -1,           nullptr};
      if (unit == 1) {
        copy_shifted<std::uint8_t>(item, member.team_rank());
      } else {
        copy_elements<Unit16, Unit16>(item, member.team_rank(), [](const Unit16& bits) { return bits; });
      }
    }
  }
};

/// One launch of as many teams as the device holds at a time, `teams` on each multiprocessor; at most `most` (0: any).
template <int teams, typename Functor>
void launch(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor,
            int scratch = 0, std::int64_t most = 0) {
  using Policy = Kokkos::TeamPolicy<Device, Kokkos::LaunchBounds<kCopyLanes, teams>>;
  constexpr int kLanesOfMultiprocessor = 2048;
  if (count == 0) return;
  const Device& device = space.implementation().device;
  const std::int64_t all = std::int64_t{std::max(1, device.concurrency() / kLanesOfMultiprocessor)} * teams;
  Policy policy(device, static_cast<int>(std::min({count, all, most > 0 ? most : all})), kCopyLanes);
  policy.set_scratch_size(0, Kokkos::PerTeam(scratch));
  Kokkos::parallel_for(label, policy, functor);
}

}  // namespace

CopyLimits copy_limits() { return {kItemBytes, 4 * kTileSide}; }

void run_copies(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kCopyKinds],
                std::int64_t most_teams) {
  static const std::string moved = "refit::copy";
  static const std::string shifted = "refit::copy_shifted";
  static const std::string converted = "refit::copy_converted";
  static const std::string transposed = "refit::copy_transposed";
  CopyRun rest = run;
  launch<1>(space, moved, counts[0], MovedCopies{rest, counts[0]}, 0, most_teams);
  rest.items += counts[0];
  launch<1>(space, shifted, counts[1], ShiftedCopies{rest, counts[1]}, 0, most_teams);
  rest.items += counts[1];
  launch<1>(space, converted, counts[2], ConvertedCopies{rest, counts[2]});
  rest.items += counts[2];
  launch<2>(space, transposed, counts[3], TransposedCopies{rest, counts[3]}, kTileScratch);
}

void load_copies(const ExecutionSpace& space) {
  const std::string label = "refit::load";
  launch<1>(space, label, 1, MovedCopies{{}, 0});
  launch<1>(space, label, 1, ShiftedCopies{{}, 0});
  launch<1>(space, label, 1, ConvertedCopies{{}, 0});
  launch<2>(space, label, 1, TransposedCopies{{}, 0}, kTileScratch);
  launch<1>(space, label, 1, RangeCopy{nullptr, nullptr, 0, 1});
}

void run_range(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes) {
  static const std::string label = "refit::copy_bytes";
  const std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(source) | reinterpret_cast<std::uintptr_t>(destination) |
                              static_cast<std::uintptr_t>(bytes);
  const std::int32_t unit = bits % kChunk == 0 ? kChunk : 1;
  launch<1>(space, label, ceil_div(bytes, kItemBytes), RangeCopy{source, destination, bytes, unit});
}

}  // namespace refit::kernels
