#pragma once
// Kernels that visit every element of a region once, with its bits and its global linear index.
//
// A visitor is called as Bits visit(Bits stored, std::int64_t global linear index, std::int64_t box-linear index) and
// says by kReads and kWrites whether `stored` is read and whether its result is stored. With kWords, devices call
// std::uint64_t word(std::uint64_t stored, std::int64_t global linear index) instead for neighbours that fill 8 bytes.

#include <algorithm>
#include <string>

#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

inline constexpr std::int64_t kItemElements = 128 * 1024;

/// Work on one item by one host thread.
template <typename Bits, typename Visitor>
struct HostElements {
  Rows rows;
  Cut pieces;
  Visitor visitor;

  void operator()(std::int64_t index) const {
    const Visitor visit = visitor;  // own copies: a store through std::byte may change what `this` points to
    const std::int64_t step = rows.column_stride * static_cast<std::int64_t>(sizeof(Bits));
    const Cut::Item item = pieces.item(rows, index);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      const std::int64_t global = row.global * rows.row_length + rows.first_column;
      std::byte* data = rows.data + row.offset * static_cast<std::int64_t>(sizeof(Bits));
      const std::int64_t first = r * rows.columns;
      for (std::int64_t c = item.column; c < item.column + item.columns; ++c) {
        const Bits stored = Visitor::kReads ? load<Bits>(data + c * step, 0) : Bits{};
        const Bits result = visit(stored, global + c, first + c);
        if constexpr (Visitor::kWrites) store(data + c * step, 0, result);
      }
    }
  }
};

/// Work on one item by a team of device lanes: neighbouring lanes take neighbouring vectors of 16 bytes, or elements
/// where rows are not aligned to vectors. The team writes the places of the item's rows into its scratch memory first.
template <typename Bits, typename Visitor>
struct DeviceElements {
  Rows rows;
  Cut pieces;
  Visitor visitor;
  bool vectors;

  static constexpr std::int64_t kSize = sizeof(Bits);
  static constexpr std::uint32_t kWide = 16 / kSize;
  static constexpr int kBatch = 2;             ///< positions of a lane that are read before the first is written
  static constexpr std::int64_t kRows = 1024;  ///< most rows of an item

  /// Place of the first column of an item's row.
  struct alignas(16) Place {
    std::byte* data;
    std::int64_t global;
  };
  static constexpr std::int64_t kScratch = kRows * static_cast<std::int64_t>(sizeof(Place));

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const Cut::Item item = pieces.item(rows, member.league_rank());
    auto* places = static_cast<Place*>(member.team_scratch(0).get_shmem(static_cast<int>(kScratch)));
    for (std::int64_t r = member.team_rank(); r < item.rows; r += member.team_size()) {
      const Rows::Row row = rows.row(item.row + r);
      places[r] = {rows.data + (row.offset + item.column * rows.column_stride) * kSize,
                   row.global * rows.row_length + rows.first_column + item.column};
    }
    member.team_barrier();
    const auto lane = static_cast<std::uint32_t>(member.team_rank());
    const auto lanes = static_cast<std::uint32_t>(member.team_size());
    if (vectors) {
      walk<kWide>(item, places, lane, lanes);
    } else {
      walk<1>(item, places, lane, lanes);
    }
  }

  template <std::uint32_t width>
  KOKKOS_INLINE_FUNCTION void walk(const Cut::Item& item, const Place* places, std::uint32_t lane,
                                   std::uint32_t lanes) const {
    using Vector = std::conditional_t<width == 1, Bits, Unit16>;
    const auto count = static_cast<std::uint32_t>(item.rows);
    const auto columns = static_cast<std::uint32_t>(item.columns);
    const std::uint32_t across = columns / width;
    const std::int64_t step = width == 1 ? rows.column_stride * kSize : kSize;
    const std::int64_t box_linear = item.row * rows.columns + item.column;
    LaneWalk at(lane, lanes, across > 0 ? across : 1);
    while (across > 0 && at.row < count) {
      std::byte* address[kBatch];
      std::int64_t global[kBatch];
      std::int64_t first[kBatch];
      Vector stored[kBatch];
      REFIT_UNROLL
      for (int k = 0; k < kBatch; ++k) {
        address[k] = nullptr;
        stored[k] = Vector{};
        if (at.row < count) {
          const Place place = places[at.row];
          const std::uint32_t column = at.column * width;
          address[k] = place.data + column * step;
          global[k] = place.global + column;
          first[k] = box_linear + at.row * rows.columns + column;
          if constexpr (Visitor::kReads) stored[k] = load<Vector>(address[k], 0);
        }
        at.next();
      }
      REFIT_UNROLL
      for (int k = 0; k < kBatch; ++k) {
        if (address[k] == nullptr) continue;
        const Vector result = visit(stored[k], global[k], first[k]);
        if constexpr (Visitor::kWrites) store(address[k], 0, result);
      }
    }
    const std::uint32_t rest = columns % width;
    for (std::uint32_t i = lane; i < count * rest; i += lanes) {
      const std::uint32_t row = i / rest;
      const std::uint32_t column = across * width + i % rest;
      visit_one(places[row].data, column, places[row].global + column, box_linear + row * rows.columns + column);
    }
  }

  KOKKOS_INLINE_FUNCTION void visit_one(std::byte* data, std::uint32_t index, std::int64_t global,
                                        std::int64_t first) const {
    const Bits stored = Visitor::kReads ? load<Bits>(data, index) : Bits{};
    const Bits result = visitor(stored, global, first);
    if constexpr (Visitor::kWrites) store(data, index, result);
  }
  KOKKOS_INLINE_FUNCTION Bits visit(Bits stored, std::int64_t global, std::int64_t first) const {
    return visitor(stored, global, first);
  }
  KOKKOS_INLINE_FUNCTION Unit16 visit(const Unit16& stored, std::int64_t global, std::int64_t first) const {
    return {word(stored.low, global, first), word(stored.high, global + kWide / 2, first + kWide / 2)};
  }
  KOKKOS_INLINE_FUNCTION std::uint64_t word(std::uint64_t stored, std::int64_t global, std::int64_t first) const {
    if constexpr (Visitor::kWords) {
      return visitor.word(stored, global);
    } else {
      std::uint64_t result = 0;
      REFIT_UNROLL
      for (std::uint32_t i = 0; i < kWide / 2; ++i) {
        const int shift = static_cast<int>(8 * kSize * i);
        const Bits bits = visitor(static_cast<Bits>(stored >> shift), global + i, first + i);
        result |= static_cast<std::uint64_t>(bits) << shift;
      }
      return result;
    }
  }
};

template <typename Bits, typename Visitor>
void for_each_element(const ExecutionSpace& space, const std::string& label, const Region& region,
                      const Visitor& visitor) {
  const Rows rows = joined(rows_of(region));
  if constexpr (kOnHost) {
    const Cut pieces = cut(rows, kItemElements, kItemElements);
    for_each_item(space, label, pieces.items, HostElements<Bits, Visitor>{rows, pieces, visitor});
  } else {
    using Functor = DeviceElements<Bits, Visitor>;
    const std::int64_t elements = device_item_elements(rows.rows * rows.columns);
    const Cut pieces = cut(rows, elements, std::min(elements, rows.columns * Functor::kRows));
    const bool vectors = has_aligned_rows(rows, sizeof(Bits));
    for_each_team(space, label, pieces.items, Functor{rows, pieces, visitor, vectors}, Functor::kScratch);
  }
}

/// Calls action(Bits{}) with the unsigned integer of an element's size.
template <typename Action>
void with_bits_of(DType dtype, const Action& action) {
  switch (byte_size(dtype)) {
    case 1: return action(std::uint8_t{});
    case 2: return action(std::uint16_t{});
    case 4: return action(std::uint32_t{});
    default: return action(std::uint64_t{});
  }
}

}  // namespace refit::kernels
