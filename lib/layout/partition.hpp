#pragma once
// One-dimensional partitions: cuts of a range of rows, columns, layers or experts over ranks.

#include <cstdint>
#include <vector>

namespace refit::layout {

/// A contiguous range of indices.
struct Range {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// Returns the `index`-th of `parts` equal parts; `size` must divide (the callers' validation says so to the user).
Range even_part(std::int64_t size, std::int64_t parts, std::int64_t index);

/// Returns a part of DTensor's Shard (torch.chunk): chunks of ceil(size / parts), the last ones shorter or empty. 10
/// over 4: 3, 3, 3, 1.
Range chunk_part(std::int64_t size, std::int64_t parts, std::int64_t index);

/// Returns a balanced part: the first size % parts parts hold one more. 6 over 4: 2, 2, 1, 1 (vLLM's linear expert
/// placement).
Range balanced_part(std::int64_t size, std::int64_t parts, std::int64_t index);

/// Returns the part of balanced_part that holds index `element`.
std::int64_t balanced_owner(std::int64_t size, std::int64_t parts, std::int64_t element);

/// Returns the rows of `part` that are below `limit`: the rest of a padded range.
Range clip(const Range& part, std::int64_t limit);

}  // namespace refit::layout
