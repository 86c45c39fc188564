#pragma once
// The comparison of neighbouring elements on hosts.

#include <cstddef>
#include <cstdint>

namespace refit::kernels {

/// Elements of a stretch that is compared at once, on whose multiples the words of a bitmap begin.
inline constexpr std::int64_t kDeltaStretch = 1024;

/// Writes into words of 64 bits, the lowest first, which of `count` (at most kDeltaStretch) elements of `bytes` bytes
/// (1, 2, 4 or 8) differ; bits behind the last are 0. Returns the number of those that do. Nothing is aligned.
std::int64_t changed_bits(const std::byte* a, const std::byte* b, std::int64_t count, std::int64_t bytes,
                          std::uint64_t* words);

}  // namespace refit::kernels
