#pragma once
// Device memory of CUDA GPUs: of this rank, and of its peers through NCCL windows or CUDA IPC. No CUDA header is needed
// to use it; in a build without CUDA everything here except cuda_version is refused as unavailable.
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

class NcclWindows;  // nccl_windows.hpp

/// Makes what all memory of one world that is to be mapped through NCCL windows has in common: a communicator, as soon
/// as the first memory is made. Not collective. `timeout_seconds`: of each of NCCL's steps (0: none).
std::shared_ptr<NcclWindows> make_nccl_windows(double timeout_seconds);

/// Makes an arena of `bytes` (0: none) on this rank's device, and maps those of all other ranks of `world` that can be:
///   by NCCL windows, where `windows` are given, each rank has a GPU of its own, NCCL is 2.29 or later (2.30.7 where
///   ranks need different sizes) and says that it can: all ranks of an NVLink domain, on one host or several. A rank
///   then takes 2 MiB at least; by CUDA IPC otherwise: same host, and a device that this one can address as a peer
///   (NVLink or PCIe); ranks that share a device can.
/// PeerMemory::mechanism tells which it is. Collective over `world`, which must outlive the result; so is its
/// destruction, as for an MPI window, because an arena may be freed only after every other rank has closed it. Errors
/// (runtime), on all ranks alike: the ranks of a device need more memory than it has free; the message has the amounts.
std::unique_ptr<PeerMemory> make_cuda_peer_memory(Control& world, std::int64_t bytes,
                                                  const std::shared_ptr<NcclWindows>& windows = nullptr);

/// Returns the version of CUDA's runtime and the newest that the driver supports, e.g. "13.0 (driver 13.0)"; empty in a
/// build without CUDA.
std::string cuda_version();

}  // namespace refit::transport
