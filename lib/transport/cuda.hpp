#pragma once
// Device memory of CUDA GPUs: of this rank, and of its peers through CUDA IPC. No CUDA header is needed to use it; in a
// build without CUDA everything here except cuda_version is refused as unavailable.
//
// All of it is on the device that is current when it is made (kernels::Runtime chooses that once per process), and is
// used from that thread.

#include <memory>
#include <string>

#include "transport/arena.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

/// Memory of this rank's device; 256-byte aligned.
class DeviceArena final : public Arena {
 public:
  /// Allocates. Errors (runtime): fewer bytes are free on the device; the message has the free amount.
  explicit DeviceArena(std::int64_t bytes);
  std::byte* data() const { return data_.get(); }
  std::int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const override { return {data_.get(), static_cast<std::size_t>(bytes_)}; }

 private:
  std::unique_ptr<std::byte, void (*)(std::byte*)> data_;
  std::int64_t bytes_ = 0;
};

/// Makes an arena of `bytes` (0: none) on this rank's device, and maps those of all other ranks of `world` that CUDA
/// IPC can open here: same host, and a device that this one can address as a peer (NVLink or PCIe); ranks that share a
/// device can. Collective over `world`, which must outlive the result; so is its destruction, as for an MPI window,
/// because an arena may be freed only after every other rank has closed it. Errors (runtime), on all ranks alike: the
/// ranks of a device need more memory than it has free; the message has the amounts.
std::unique_ptr<PeerMemory> make_cuda_peer_memory(Control& world, std::int64_t bytes);

/// Returns the version of CUDA's runtime and the newest that the driver supports, e.g. "13.0 (driver 13.0)"; empty in a
/// build without CUDA.
std::string cuda_version();

}  // namespace refit::transport
