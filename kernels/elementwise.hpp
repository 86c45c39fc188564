#pragma once
// Kernels that visit every element of a region once, with its bits and its global linear index.

#include <string>

#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

inline constexpr std::int64_t kItemElements = 128 * 1024;

/// Calls element(address, global linear index, box-linear index) for the elements of one item.
template <typename Bits, typename Element>
struct ForEachElement {
  Rows rows;
  Cut pieces;
  Element element;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, int lane, int lanes) const {
    const Element visit = element;  // own copies: a store through std::byte may change what `this` points to
    const std::int64_t step = rows.column_stride * static_cast<std::int64_t>(sizeof(Bits));
    const Cut::Item item = pieces.item(rows, index);
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      const std::int64_t global = row.global * rows.row_length + rows.first_column;
      std::byte* data = rows.data + row.offset * static_cast<std::int64_t>(sizeof(Bits));
      const std::int64_t first = r * rows.columns;
      for (std::int64_t c = item.column + lane; c < item.column + item.columns; c += lanes) {
        visit(data + c * step, global + c, first + c);
      }
    }
  }
};

template <typename Bits, typename Element>
void for_each_element(const ExecutionSpace& space, const std::string& label, const Region& region,
                      const Element& element) {
  const Rows rows = rows_of(region);
  const Cut pieces = cut(rows, kItemElements, kItemElements);
  for_each_item(space, label, pieces.items, ForEachElement<Bits, Element>{rows, pieces, element});
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
