#pragma once
// Reads tensors of a checkpoint from their first byte to their last, in chunks of bounded size.

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file.hpp"

namespace refit::checkpoint {

class TensorStream {
 public:
  /// Keeps a reference to `checkpoint`.
  explicit TensorStream(const Checkpoint& checkpoint);

  /// Goes to the first byte of `entry`, an entry of the checkpoint.
  void start(const Entry& entry);
  /// Returns the next chunk, full except for the last one (chunks of equally large tensors have equal sizes); empty at
  /// the end. Valid until the next call. Errors (usage): a file that ends early (names file, tensor and offset), or
  /// that has changed since its header was read.
  std::span<const std::byte> next();

 private:
  const Checkpoint& checkpoint_;
  const Entry* entry_ = nullptr;
  std::int64_t done_ = 0;
  std::int32_t file_index_ = -1;
  File file_;
  std::vector<std::byte> buffer_;
};

}  // namespace refit::checkpoint
