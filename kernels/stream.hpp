#pragma once
// Host copies of ranges that no cache will hold.

#include <cstddef>
#include <cstdint>

namespace refit::kernels {

/// Rows below this are left to memcpy.
inline constexpr std::int64_t kStreamedRow = 256;

/// memcpy whose stores bypass the caches: the memory need not read a line before it is overwritten. memcpy does the
/// same by itself, but only within one call of about a hundred MiB, and items are smaller. Complete and visible on
/// return.
void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes);

/// Makes the stores of earlier stream_copy calls of this thread visible to other threads and processes.
void stream_fence();

}  // namespace refit::kernels
