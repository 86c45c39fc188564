#pragma once
// Reads many short runs of one file with few system calls: runs that lie close together in the file become one preadv,
// whose bytes between the runs go to a scratch buffer. The runs themselves land where they belong, without a copy.
//
// Example: columns 0..511 of a bf16 matrix with 1,024 columns are runs of 1 KiB, 2 KiB apart: 512 rows per preadv.

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/file.hpp"

namespace refit::checkpoint {

class Gather {
 public:
  Gather();

  /// Starts on a file of the checkpoint; pending reads must have been flushed. Errors (usage): the file that is left,
  /// or this one, has changed since its header was read.
  void open(const Checkpoint& checkpoint, std::int32_t file);
  /// Leaves the last file; errors as above.
  void close();
  /// Adds `bytes` at `offset` of the file, bound for `data`. Offsets ascend between flushes. `entry` is for messages.
  void add(const Entry& entry, std::int64_t offset, std::int64_t bytes, std::byte* data);
  /// Reads the pending ranges. Errors (usage): a file that ends early; names file, tensor and offset.
  void flush();

  std::int64_t bytes_read() const { return bytes_read_; }

 private:
  void bridge(std::int64_t gap);

  File file_;
  FileIdentity at_header_;
  const Entry* entry_ = nullptr;
  std::vector<iovec> parts_;
  std::vector<std::byte> scratch_;
  std::int64_t begin_ = 0;  ///< of the pending range
  std::int64_t end_ = 0;
  std::int64_t bytes_read_ = 0;
};

}  // namespace refit::checkpoint
