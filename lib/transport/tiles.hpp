#pragma once
// Conversion of a copy's box and places to the kernels' tiles.

#include "kernels/kernels.hpp"
#include "plan/plan.hpp"
#include "transport/memory.hpp"

namespace refit::transport {

/// Returns the transform that a copy applies to each value beside the cast.
inline Transform transform_of(const plan::Copy& copy) {
  return transform(copy.source.format.conversion, copy.destination.format.conversion);
}

/// Makes a strided copy from `source` to `destination` (addresses of the box's first element).
inline kernels::Tile make_tile(const plan::Copy& copy, const std::byte* source, std::byte* destination) {
  return {source,
          destination,
          copy.box.extent,
          copy.source.place.strides,
          copy.destination.place.strides,
          copy.source.format.dtype,
          copy.destination.format.dtype,
          transform_of(copy)};
}

/// Makes the tile of a copy from a rank to itself, between its storages of the two sides.
inline kernels::Tile self_tile(const plan::Copy& copy, const LocalMemory& source, const LocalMemory& destination) {
  return make_tile(copy, source.address(copy.source.place, copy.source.format.dtype),
                   destination.address(copy.destination.place, copy.destination.format.dtype));
}

/// Makes the tile from the source's storage into `wire`, contiguous, in the source's format.
inline kernels::Tile pack_tile(const plan::Copy& copy, const LocalMemory& source, std::byte* wire) {
  return {source.address(copy.source.place, copy.source.format.dtype),
          wire,
          copy.box.extent,
          copy.source.place.strides,
          row_major_strides(copy.box.extent),
          copy.source.format.dtype,
          copy.source.format.dtype};
}

/// Makes the tile from `wire`, contiguous in the source's format, into the destination's storage.
inline kernels::Tile unpack_tile(const plan::Copy& copy, const std::byte* wire, const LocalMemory& destination) {
  return {wire,
          destination.address(copy.destination.place, copy.destination.format.dtype),
          copy.box.extent,
          row_major_strides(copy.box.extent),
          copy.destination.place.strides,
          copy.source.format.dtype,
          copy.destination.format.dtype,
          transform_of(copy)};
}

}  // namespace refit::transport
