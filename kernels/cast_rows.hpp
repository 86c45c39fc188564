#pragma once
// Casts of contiguous rows on hosts.

#include <cstddef>
#include <cstdint>

#include "kernels/bits.hpp"

namespace refit::kernels {

/// Converts `count` contiguous elements; source and destination do not overlap and need not be aligned.
void cast_row(F32, F16, const std::byte* source, std::byte* destination, std::int64_t count);
void cast_row(F32, BF16, const std::byte* source, std::byte* destination, std::int64_t count);
void cast_row(F16, F32, const std::byte* source, std::byte* destination, std::int64_t count);
void cast_row(F16, BF16, const std::byte* source, std::byte* destination, std::int64_t count);
void cast_row(BF16, F32, const std::byte* source, std::byte* destination, std::int64_t count);
void cast_row(BF16, F16, const std::byte* source, std::byte* destination, std::int64_t count);

}  // namespace refit::kernels
