#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>

#include "kernels/bits.hpp"
#include "kernels/cast_rows.hpp"
#include "kernels/copy_items.hpp"
#include "kernels/flags_host.hpp"
#include "kernels/launch.hpp"
#include "kernels/stream.hpp"
#include "kernels/transform.hpp"
#include "kernels/transpose.hpp"

namespace refit::kernels {

namespace {

/// Calls row(source, destination) for the first element of every innermost row of an item of S-sized and D-sized
/// elements.
template <std::int64_t S, std::int64_t D, typename Row>
REFIT_FORCEINLINE void for_each_row(const CopyItem& item, const Row& row) {
  for (std::int64_t i = 0; i < item.extent[0]; ++i) {
    for (std::int64_t j = 0; j < item.extent[1]; ++j) {
      const std::byte* source = item.source + S * (i * item.source_stride[0] + j * item.source_stride[1]);
      std::byte* destination = item.destination + D * (i * item.destination_stride[0] + j * item.destination_stride[1]);
      for (std::int64_t k = 0; k < item.extent[2]; ++k) {
        row(source + S * k * item.source_stride[2], destination + D * k * item.destination_stride[2]);
      }
    }
  }
}

bool has_contiguous_rows(const CopyItem& item) { return item.source_stride[3] == 1 && item.destination_stride[3] == 1; }

/// Returns true where rows of units of `size` bytes fill whole lines of the destination.
bool is_of_lines(const CopyItem& item, std::int64_t size) {
  const auto divides = [](std::int64_t bytes) { return bytes % kStreamedLine == 0; };
  return divides(item.extent[3] * size) && divides(item.destination_stride[2] * size) &&
         divides(item.destination_stride[1] * size) && divides(item.destination_stride[0] * size) &&
         divides(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(item.destination)));
}

template <typename T>
void move_on_host(const CopyItem& item) {
  constexpr std::int64_t kSize = sizeof(T);
  constexpr std::int64_t kShort = 64;  // bytes below which a call of memcpy costs more than it saves
  constexpr std::int64_t kPrefetched = 16384;
  const std::int64_t count = item.extent[3];
  if (item.along >= 0) {
    Transpose<Plain<T>, Plain<T>>(item, item.along).run();
  } else if (!has_contiguous_rows(item)) {
    for_each_row<kSize, kSize>(item, [&item, count](const std::byte* source, std::byte* destination) {
      for (std::int64_t i = 0; i < count; ++i) {
        store(destination, i * item.destination_stride[3], load<T>(source, i * item.source_stride[3]));
      }
    });
  } else if (count * kSize < kShort) {
    for_each_row<kSize, kSize>(item, [count](const std::byte* source, std::byte* destination) {
      for (std::int64_t i = 0; i < count; ++i) store(destination, i, load<T>(source, i));
    });
  } else if (item.streams && (count * kSize >= kStreamedRow || is_of_lines(item, kSize))) {
    const std::int64_t bytes = count * kSize;
    const std::int64_t ahead = std::max<std::int64_t>(1, kPrefetched / bytes) * item.source_stride[2] * kSize;
    for_each_row<kSize, kSize>(item, [bytes, ahead](const std::byte* source, std::byte* destination) {
      stream_copy(destination, source, bytes, ahead);
    });
    stream_fence();
  } else {
    const std::size_t bytes = static_cast<std::size_t>(count * kSize);
    for_each_row<kSize, kSize>(
        item, [bytes](const std::byte* source, std::byte* destination) { std::memcpy(destination, source, bytes); });
  }
}

template <typename From, typename To>
void cast_on_host(const CopyItem& item) {
  if (item.along >= 0) return Transpose<From, To>(item, item.along).run();
  for_each_row<sizeof(typename From::Bits), sizeof(typename To::Bits)>(
      item, [&item](const std::byte* source, std::byte* destination) {
        if (has_contiguous_rows(item)) {
          cast_row(From{}, To{}, source, destination, item.extent[3]);
        } else {
          for (std::int64_t i = 0; i < item.extent[3]; ++i) {
            store(destination, i * item.destination_stride[3],
                  convert<From, To>(load<typename From::Bits>(source, i * item.source_stride[3])));
          }
        }
      });
}

template <typename From, typename To>
void transform_on_host(const CopyItem& item) {
  for_each_row<sizeof(typename From::Bits), sizeof(typename To::Bits)>(
      item, [&item](const std::byte* source, std::byte* destination) {
        for (std::int64_t i = 0; i < item.extent[3]; ++i) {
          const auto bits = load<typename From::Bits>(source, i * item.source_stride[3]);
          store(destination, i * item.destination_stride[3], transformed<From, To>(bits, item.transform));
        }
      });
}

/// Work on one item by one host thread.
struct HostCopy {
  CopyRun run;
  void operator()(std::int64_t index) const {
    const CopyItem& item = run.items[index];
    await_flag(item, run.epoch);
    copy(item);
    raise_flag(item, run);
  }

  static void copy(const CopyItem& item) {
    switch (item.unit) {
      case 1: return move_on_host<std::uint8_t>(item);
      case 2: return move_on_host<std::uint16_t>(item);
      case 4: return move_on_host<std::uint32_t>(item);
      case 8: return move_on_host<std::uint64_t>(item);
      case 16: return move_on_host<Unit16>(item);
      default: break;
    }
    with_types(item.from, item.to, [&item](auto from, auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if (item.transform != Transform::none) return transform_on_host<From, To>(item);
      if constexpr (!std::is_same_v<From, To>) cast_on_host<From, To>(item);
    });
  }
};

}  // namespace

CopyLimits copy_limits() { return {256 * 1024, std::numeric_limits<std::int64_t>::max()}; }

void run_copies(const ExecutionSpace& space, const CopyRun& run, const std::int64_t (&counts)[kCopyKinds],
                std::int64_t /*most_teams*/) {
  static const std::string label = "refit::copy";
  for_each_item(space, label, std::accumulate(std::begin(counts), std::end(counts), std::int64_t{0}), HostCopy{run});
}

void run_range(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes) {
  const Tile tile{source, destination, {bytes}, {1}, {1}, DType::u8, DType::u8};
  CopySignals signals;
  const std::vector<CopyItem> items = copy_items({&tile, 1}, copy_limits(), signals);
  run_copies(space, {items.data(), nullptr, nullptr, 0}, {static_cast<std::int64_t>(items.size()), 0, 0, 0});
}

}  // namespace refit::kernels
