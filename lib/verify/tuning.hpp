#pragma once
// Sizes and times that decide how verification goes about it, never what it finds.

#include <cstdint>

namespace refit::verify {

struct Tuning {
  /// What a rank compares at once, or gets of true elements in one round of counting, at most (a single element may
  /// exceed it).
  std::int64_t chunk_bytes = 8 * 1024 * 1024;
  /// Row sums of train and gen that are reduced at once for the KL, at most (a single tensor may exceed it).
  std::int64_t batch_bytes = 64 * 1024 * 1024;
  /// How long wrong elements are counted; what is wrong is known before. 0 = not at all.
  double count_seconds = 10;
};

}  // namespace refit::verify
