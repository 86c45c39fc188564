#include <algorithm>
#include <cstring>

#include "kernels/bits.hpp"
#include "kernels/cast_rows.hpp"
#include "kernels/copy_items.hpp"
#include "kernels/launch.hpp"
#include "kernels/stream.hpp"
#include "kernels/transform.hpp"
#include "kernels/transpose.hpp"

namespace refit::kernels {

namespace {

/// The widest unit: 16 bytes, one load of a device lane.
struct alignas(16) Unit16 {
  std::uint64_t low, high;
};

/// Calls row(source, destination) for the first element of every innermost row of an item of S-sized and D-sized
/// elements.
template <std::int64_t S, std::int64_t D, typename Row>
KOKKOS_FORCEINLINE_FUNCTION void for_each_row(const CopyItem& item, const Row& row) {
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

template <typename T>
void move_on_host(const CopyItem& item) {
  constexpr std::int64_t kSize = sizeof(T);
  constexpr std::int64_t kShort = 64;  // bytes below which a call of memcpy costs more than it saves
  constexpr std::int64_t kPrefetched = 16384;
  const std::int64_t count = item.extent[3];
  if (const int along = source_dimension(item); along >= 0) {
    Transpose<Plain<T>, Plain<T>>(item, along).run();
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
  } else if (item.streams && count * kSize >= kStreamedRow) {
    // Short rows with gaps end before a hardware prefetcher has started: ask for the rows some KiB ahead.
    const std::int64_t bytes = count * kSize;
    const std::int64_t ahead = bytes < kPrefetched ? (kPrefetched / bytes) * item.source_stride[2] * kSize : 0;
    for_each_row<kSize, kSize>(item, [bytes, ahead](const std::byte* source, std::byte* destination) {
      for (std::int64_t line = 0; ahead != 0 && line < bytes; line += 64) __builtin_prefetch(source + ahead + line);
      stream_copy(destination, source, bytes);
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
  if (const int along = source_dimension(item); along >= 0) return Transpose<From, To>(item, along).run();
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

/// One item by one host thread.
struct HostCopy {
  const CopyItem* items;
  void operator()(std::int64_t index, int, int) const {
    const CopyItem& item = items[index];
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

/// One item by a team of device lanes, neighbouring lanes on neighbouring elements.
struct DeviceCopy {
  const CopyItem* items;

  template <typename Element>
  KOKKOS_INLINE_FUNCTION static void walk(const CopyItem& item, int lane, int lanes, const Element& element) {
    const auto n1 = static_cast<std::uint32_t>(item.extent[1]);
    const auto n2 = static_cast<std::uint32_t>(item.extent[2]);
    const auto n3 = static_cast<std::uint32_t>(item.extent[3]);
    const std::uint32_t volume = static_cast<std::uint32_t>(item.extent[0]) * n1 * n2 * n3;
    for (std::uint32_t e = static_cast<std::uint32_t>(lane); e < volume; e += static_cast<std::uint32_t>(lanes)) {
      const std::uint32_t r3 = e / n3;
      const std::uint32_t r2 = r3 / n2;
      const std::uint32_t r1 = r2 / n1;
      const std::int64_t index[4] = {r1, r2 - r1 * n1, r3 - r2 * n2, e - r3 * n3};
      std::int64_t source = 0;
      std::int64_t destination = 0;
      for (int d = 0; d < 4; ++d) {
        source += index[d] * item.source_stride[d];
        destination += index[d] * item.destination_stride[d];
      }
      element(source, destination);
    }
  }

  template <typename T>
  KOKKOS_INLINE_FUNCTION static void move(const CopyItem& item, int lane, int lanes) {
    walk(item, lane, lanes, [&item](std::int64_t source, std::int64_t destination) {
      store(item.destination, destination, load<T>(item.source, source));
    });
  }

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, int lane, int lanes) const {
    const CopyItem& item = items[index];
    if (item.unit == 1) return move<std::uint8_t>(item, lane, lanes);
    if (item.unit == 2) return move<std::uint16_t>(item, lane, lanes);
    if (item.unit == 4) return move<std::uint32_t>(item, lane, lanes);
    if (item.unit == 8) return move<std::uint64_t>(item, lane, lanes);
    if (item.unit == 16) return move<Unit16>(item, lane, lanes);
    with_types(item.from, item.to, [&item, lane, lanes](auto from, auto to) {
      using From = decltype(from);
      using To = decltype(to);
      walk(item, lane, lanes, [&item](std::int64_t source, std::int64_t destination) {
        const auto bits = load<typename From::Bits>(item.source, source);
        const bool as_it_is = item.transform == Transform::none;
        store(item.destination, destination,
              as_it_is ? convert<From, To>(bits) : transformed<From, To>(bits, item.transform));
      });
    });
  }
};

template <bool on_host>
struct CopyFor {
  using Type = DeviceCopy;
};
template <>
struct CopyFor<true> {
  using Type = HostCopy;
};
using Copy = CopyFor<kOnHost>::Type;

/// A plain range, in chunks, by memcpy on hosts and by 16-byte loads on devices: the items of one tile.
Tile byte_tile(const std::byte* source, std::byte* destination, std::int64_t bytes) {
  return {source, destination, {bytes}, {1}, {1}, DType::u8, DType::u8};
}

}  // namespace

struct CopyTable::Items {
  Kokkos::View<CopyItem*, DeviceMemory> view;
};

CopyTable::CopyTable(const ExecutionSpace& space, std::span<const Tile> tiles) {
  for (const Tile& tile : tiles) {
    bytes_read_ += product(tile.extent) * byte_size(tile.from);
    bytes_written_ += product(tile.extent) * byte_size(tile.to);
  }
  const std::vector<CopyItem> items = copy_items(tiles);
  auto holder = std::make_shared<Items>();
  using Memory = Kokkos::View<CopyItem*, DeviceMemory>;
  holder->view = Memory(Kokkos::ViewAllocateWithoutInitializing("refit::copy_items"), items.size());
  using Source = Kokkos::View<const CopyItem*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  space.fence();
  Kokkos::deep_copy(holder->view, Source(items.data(), items.size()));
  items_ = std::move(holder);
}

void CopyTable::run(const ExecutionSpace& space) const {
  static const std::string label = "refit::copy";
  if (items_ == nullptr) return;
  for_each_item(space, label, static_cast<std::int64_t>(items_->view.extent(0)), Copy{items_->view.data()});
}

void copy_bytes(const ExecutionSpace& space, const std::byte* source, std::byte* destination, std::int64_t bytes) {
  const Tile tile = byte_tile(source, destination, bytes);
  CopyTable(space, {&tile, 1}).run(space);
  space.fence();
}

}  // namespace refit::kernels
