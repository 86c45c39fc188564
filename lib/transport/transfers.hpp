#pragma once
// What probes repeat: bytes brought from here to there by one mechanism, ready to be run again and again.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/engine_copies.hpp"
#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// Returns memory that has been written to: the first use of a page takes as long as a message of it.
kernels::DeviceBuffer touched(std::int64_t bytes);

/// Memory of a repeated copy.
struct Area {
  std::byte* data;
  std::int64_t bytes;
};

/// A kernel's copies from one area into another, repeated until `total` bytes are stored, or read where those are more.
struct Repeated {
  kernels::CopyTable table;
  std::int64_t bytes = 0;  ///< read and stored

  Repeated(const kernels::ExecutionSpace& space, Area source, Area destination, std::int64_t total,
           std::pair<DType, DType> types = {DType::u8, DType::u8});
  void run(const kernels::ExecutionSpace& space) const {
    table.run(space);
    space.fence();
  }
};

/// Copies by engines that store `total` bytes into one area again and again, in pieces of at most `size`. `to`: nullptr
/// where there is nothing to copy to.
kernels::EngineTable engine_copies(const std::byte* from, std::byte* to, std::int64_t bytes, std::int64_t size,
                                   std::int64_t total);

/// Messages between pairs of ranks, of `bytes` of each pair, in a part on each of the first `lanes` lanes. Every rank
/// of the communicator may make one; those without an end of a message have nothing to do.
class Posts {
 public:
  Posts(Communicator& communicator, int lanes, const std::vector<int>& senders, const std::vector<int>& receivers,
        std::byte* source, std::byte* destination, std::int64_t bytes);
  /// Starts the messages; they must have been waited for since the last time.
  void start();
  void wait();
  void run() {
    start();
    wait();
  }

 private:
  Communicator& communicator_;
  std::vector<std::vector<Message>> by_lane_;
  std::vector<std::unique_ptr<Request>> requests_;
};

}  // namespace refit::transport
