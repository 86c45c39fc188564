#pragma once
// Main memory that is allocated so that the other processes of this host can map it: by refit itself, or for an engine
// that keeps its weights in it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "transport/communicator.hpp"

namespace refit::transport {

/// A file in memory without a name (memfd_create), mapped whole; page-aligned and zero. Others map it with
/// make_foreign_host_memory; those that have go on using it after its owner is destroyed.
class SharedMemory {
 public:
  SharedMemory() = default;
  /// Allocates, and takes all pages at once. Errors: usage, `bytes` is negative; runtime, less memory is free, or files
  /// may not be so long (ulimit -f); the message has the amounts.
  explicit SharedMemory(std::int64_t bytes);
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {data_, static_cast<std::size_t>(bytes_)}; }

 private:
  int file_ = -1;  ///< open as long as others may want to map it
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// Makes an arena of `bytes` (0: none) on this rank in SharedMemory, and maps those of the other ranks of its host.
/// Collective over `world`, which must outlive the result. Errors (runtime) on all ranks alike: the ranks of a host
/// need more memory than it has; the message has the amounts, and says that the executors p2p and golden need none.
std::unique_ptr<PeerMemory> make_shared_peer_memory(Control& world, std::int64_t bytes);

}  // namespace refit::transport
