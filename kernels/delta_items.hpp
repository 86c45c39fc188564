#pragma once
// The blocks of a delta table in their simplest form.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/bits.hpp"
#include "kernels/delta.hpp"
#include "kernels/transform.hpp"

namespace refit::kernels {

/// A block of up to four dimensions, the last one innermost. Neighbouring dimensions are merged where both ends allow.
struct DeltaItem {
  std::byte* data;
  std::byte* kept;
  std::byte* bits;  ///< of a source: which elements differed when they were counted, in words of 64
  std::int64_t stride[4], kept_stride[4];  ///< in elements
  std::uint32_t extent[4];
  std::uint32_t elements;
  DType from, to;
  Transform transform;
  /// Every 16 bytes of elements, counted from the first, lie together and aligned at the source and where it is kept.
  bool has_vectors;

  REFIT_FUNCTION bool moves_bits() const { return from == to && transform == Transform::none; }
  /// Return the places of an element, in elements from the first.
  REFIT_FUNCTION std::int64_t at(std::uint32_t element) const { return place(stride, element); }
  REFIT_FUNCTION std::int64_t kept_at(std::uint32_t element) const { return place(kept_stride, element); }
  REFIT_FUNCTION std::int64_t place(const std::int64_t (&strides)[4], std::uint32_t element) const {
    std::int64_t result = 0;
    for (int d = 3; d > 0; --d) {
      if (element < extent[d]) return result + element * strides[d];
      const std::uint32_t rest = element / extent[d];
      result += (element - rest * extent[d]) * strides[d];
      element = rest;
    }
    return result + element * strides[0];
  }
};

/// Returns the items of blocks, one each, without their bits.
std::vector<DeltaItem> delta_items(std::span<const DeltaBlock> blocks);

/// Returns the bytes of an item's bits.
REFIT_FUNCTION std::int64_t bits_bytes(const DeltaItem& item) { return (item.elements + 63) / 64 * 8; }

/// Returns whether so many of an item's elements are to be kept one by one; else all of them are copied.
REFIT_FUNCTION bool keeps_single(const DeltaItem& item, std::uint32_t changed) { return 8 * changed < item.elements; }

/// Calls action(type) with Plain of the unsigned integer of an element's size.
REFIT_CALLS_EITHER
template <typename Action>
REFIT_FUNCTION void with_plain(DType dtype, const Action& action) {
  switch (byte_size(dtype)) {
    case 1: return action(Plain<std::uint8_t>{});
    case 2: return action(Plain<std::uint16_t>{});
    case 4: return action(Plain<std::uint32_t>{});
    default: return action(Plain<std::uint64_t>{});
  }
}

/// Calls action(From{}, To{}, convert) for an item of a destination, where convert(bits) makes To's bits of From's.
REFIT_CALLS_EITHER
template <typename Action>
REFIT_FUNCTION void with_conversion(const DeltaItem& item, const Action& action) {
  if (item.moves_bits()) {
    with_plain(item.from, [&](auto plain) {
      using Bits = typename decltype(plain)::Bits;
      action(plain, plain, [](Bits bits) { return bits; });
    });
    return;
  }
  with_types(item.from, item.to, [&](auto from, auto to) {
    using From = decltype(from);
    using To = decltype(to);
    const Transform transform = item.transform;
    action(from, to, [transform](typename From::Bits bits) {
      return transform == Transform::none ? convert<From, To>(bits) : transformed<From, To>(bits, transform);
    });
  });
}

/// Defined in delta_host.cpp and delta_device.cpp, of which one is built. Enqueue the work of DeltaTable. With no
/// blocks or jobs, a device loads the kernel.
void run_delta_count(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count, std::uint32_t* counts);
void run_delta_encode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs);
void run_delta_decode(const ExecutionSpace& space, const DeltaItem* items, std::span<const DeltaJob> jobs);
void run_delta_keep(const ExecutionSpace& space, const DeltaItem* items, std::int64_t count,
                    const std::uint32_t* counts);

}  // namespace refit::kernels
