#pragma once
// Sizes and times that decide the course of verification, never its findings.

#include <cstdint>

namespace refit::verify {

struct Tuning {
  /// Most bytes that a rank compares at once, or gets of true elements in one round of counting (a single element may
  /// exceed it).
  std::int64_t chunk_bytes = 8 * 1024 * 1024;
  /// Most bytes of row sums of train and gen that are reduced at once for the KL (a single tensor may exceed it).
  std::int64_t batch_bytes = 64 * 1024 * 1024;
  /// Longest time of counting wrong elements; the wrong tensors are known before. 0 = no counting.
  double count_seconds = 10;
};

}  // namespace refit::verify
