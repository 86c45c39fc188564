#pragma once
// Host copies of ranges that no cache will hold.

#include <cstddef>
#include <cstdint>

namespace refit::kernels {

/// Rows below this are left to memcpy, unless they fill whole lines.
inline constexpr std::int64_t kStreamedRow = 256;
inline constexpr std::int64_t kStreamedLine = 64;

/// memcpy whose stores bypass the caches: the memory need not read a line before it is overwritten. memcpy does the
/// same by itself, but only within one call of about a hundred MiB, and items are smaller. Complete and visible on
/// return. `ahead`: where the bytes lie, from here, that will be copied some KiB later, for rows that end before a
/// hardware prefetcher has started; 0: right behind.
void stream_copy(std::byte* destination, const std::byte* source, std::int64_t bytes, std::int64_t ahead = 0);

/// Makes the stores of earlier stream_copy calls of this thread visible to other threads and processes.
void stream_fence();

}  // namespace refit::kernels
