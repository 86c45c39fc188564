#pragma once
// The block scales that a rank keeps beside the bytes of a quantised weight.

#include <span>

#include "verify/local_memory.hpp"

namespace refit::verify {

/// Scales, in memory that stays as long as this does.
struct Scales {
  kernels::BlockScales of;
  kernels::DeviceBuffer gathered;  ///< where they are not one piece of this rank
};

/// Returns the scales of a piece of a weight, from the pieces of the same rank and side. E.g. columns 64 .. 127 of a
/// weight whose scales are repeated twice: the second column of the scales of columns 0 .. 127. Errors (usage): this
/// rank does not store all of them; the tensor is named.
Scales scales_of(const LocalMemory& local, std::int32_t piece);

/// Returns one row-major array of the elements of `box`, of which `parts` are disjoint parts of that dtype.
kernels::DeviceBuffer gathered(const LocalMemory& local, DType dtype, const Box& box,
                               std::span<const kernels::Region> parts);

}  // namespace refit::verify
