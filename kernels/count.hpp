#pragma once
// Kernels that look at every element of a region once and count those for which a test holds.
//
// A test is called as bool test(Bits stored, std::int64_t box-linear index). Every item adds to the results once, so
// that a region in which all elements hold costs no more than one in which none does.

#include <string>

#include "kernels/bits.hpp"
#include "kernels/launch.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

/// Results of a count: how many, and the complement of the lowest box-linear index (0: none).
struct Counted {
  Counter* results;

  KOKKOS_INLINE_FUNCTION void add(Counter count, std::int64_t first) const {
    if (count == 0) return;
    if constexpr (kOnHost) {
      add_on_host(&results[0], count);
      raise_on_host(&results[1], ~static_cast<Counter>(first));
    } else {
      Kokkos::atomic_fetch_add(&results[0], count);
      Kokkos::atomic_fetch_max(&results[1], ~static_cast<Counter>(first));
    }
  }
};

/// Work on one item by one host thread.
template <typename Bits, typename Test>
struct HostCount {
  Rows rows;
  Cut pieces;
  Test test;
  Counted counted;

  static constexpr std::int64_t kBlock = 128;  ///< elements whose number a Bits can count: loops that vectorise

  void operator()(std::int64_t index) const {
    const Cut::Item item = pieces.item(rows, index);
    Counter count = 0;
    std::int64_t first = -1;
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const std::byte* row =
          rows.data + (rows.row(r).offset + item.column * rows.column_stride) * static_cast<std::int64_t>(sizeof(Bits));
      const std::int64_t linear = r * rows.columns + item.column;
      for (std::int64_t c = 0; c < item.columns; c += kBlock) {
        const std::int64_t size = item.columns - c < kBlock ? item.columns - c : kBlock;
        const std::byte* data = row + c * rows.column_stride * static_cast<std::int64_t>(sizeof(Bits));
        const std::int64_t found = rows.column_stride == 1 ? in_block(data, 1, linear + c, size)
                                                           : in_block(data, rows.column_stride, linear + c, size);
        if (found > 0 && first < 0) first = first_in_block(data, linear + c);
        count += static_cast<Counter>(found);
      }
    }
    counted.add(count, first);
  }

 private:
  REFIT_FORCEINLINE std::int64_t in_block(const std::byte* data, std::int64_t step, std::int64_t linear,
                                          std::int64_t size) const {
    const Test own = test;
    Bits found = 0;
    for (std::int64_t i = 0; i < size; ++i) {
      found = static_cast<Bits>(found + (own(load<Bits>(data, i * step), linear + i) ? 1 : 0));
    }
    return static_cast<std::int64_t>(found);
  }
  /// Returns the index of the first element that passes the test in a block that has one.
  std::int64_t first_in_block(const std::byte* data, std::int64_t linear) const {
    std::int64_t i = 0;
    while (!test(load<Bits>(data, i * rows.column_stride), linear + i)) ++i;
    return linear + i;
  }
};

/// Work on one item by a team of device lanes, neighbouring lanes on neighbouring elements.
template <typename Bits, typename Test>
struct DeviceCount {
  Rows rows;
  Cut pieces;
  Test test;
  Counted counted;

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const Cut::Item item = pieces.item(rows, member.league_rank());
    Counter count = 0;
    std::int64_t first = -1;
    LaneWalk at(static_cast<std::uint32_t>(member.team_rank()), static_cast<std::uint32_t>(member.team_size()),
                static_cast<std::uint32_t>(item.columns));
    for (; at.row < item.rows; at.next()) {
      const std::int64_t r = item.row + at.row;
      const std::int64_t c = item.column + at.column;
      const std::int64_t linear = r * rows.columns + c;
      if (!test(load<Bits>(rows.data, rows.row(r).offset + c * rows.column_stride), linear)) continue;
      if (first < 0) first = linear;
      ++count;
    }
    counted.add(count, first);
  }
};

/// Counts the elements for which `test` holds; complete on return.
template <typename Bits, typename Test>
Difference count_where(const ExecutionSpace& space, const std::string& label, const Region& region, const Test& test) {
  constexpr std::int64_t kItem = 128 * 1024;
  const Results results(space, 2);
  const Counted counted{results.data()};
  const Rows rows = joined(rows_of(region));
  if constexpr (kOnHost) {
    const Cut pieces = cut(rows, kItem, kItem);
    for_each_item(space, label, pieces.items, HostCount<Bits, Test>{rows, pieces, test, counted});
  } else {
    const std::int64_t elements = device_item_elements(rows.rows * rows.columns);
    const Cut pieces = cut(rows, elements, elements);
    for_each_team(space, label, pieces.items, DeviceCount<Bits, Test>{rows, pieces, test, counted});
  }
  const Counter* found = results.wait();
  if (found[0] == 0) return {};
  return {static_cast<std::int64_t>(found[0]), static_cast<std::int64_t>(~found[1])};
}

}  // namespace refit::kernels
