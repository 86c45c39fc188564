#pragma once
// Memory that somebody else has allocated, an engine or its framework, as peer memory: the storages of a rank lie in
// many blocks, shared with other data, and each block that can be shared is mapped whole.
//
//   hosts    storages in shared mappings: files in memory (memfd_create, shm_open), torch's tensor.share_memory_() in
//   both
//            of its strategies, MPI windows, SharedMemory. Private memory, as malloc returns it, cannot be mapped.
//   devices  storages in memory of cudaMalloc, through CUDA IPC; also tensors that a caching allocator has cut out of
//   its
//            blocks. Memory of cuMemCreate (torch's expandable segments, vLLM's sleep mode) and of stream-ordered pools
//            cannot be mapped so.
//
// A rank of which any storage cannot be mapped is not mapped at all (map: nullptr), and others send it messages; note()
// names the storage and says what to do. What is no memory of this process, or cannot be stored to, is an error
// (usage).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transport/communicator.hpp"

namespace refit::transport {

/// A storage in memory that somebody else has allocated.
struct OwnedBlock {
  std::string name;  ///< in the engine's words
  std::byte* address = nullptr;
  std::int64_t bytes = 0;
  bool is_written = true;  ///< others store into it, or this process does
};

/// Maps the memory of all ranks' storages, as far as this rank can: that of hosts, or of devices where kernels run on
/// one. `storages`: those of this rank that others store into; none if there are none. Their memory must not be freed,
/// nor mapped anew, before the result is destroyed on every rank. Collective over `world`, which must outlive the
/// result; so is destruction, after which the memory may be freed. Errors (usage) on all ranks alike, with the storage:
/// its memory does not exist, cannot be stored to, or is on another device.
std::unique_ptr<PeerMemory> make_foreign_memory(Control& world, std::span<const OwnedBlock> storages);

/// Returns a number for each storage that changes when its memory is another than before: when its address does, on
/// devices also when it has been freed and allocated again at the same address, on hosts when another file is mapped
/// there. Equal numbers mean that what was mapped is still right. Cheap, not collective: call it before every refit.
/// Errors (usage) with the storage: what is no memory of this process, or cannot be read or written; device memory that
/// has been freed, or is not there now (an engine that sleeps).
std::vector<std::uint64_t> identities(std::span<const OwnedBlock> storages);

/// The same, of hosts and of devices; where kernels run decides which one is right.
std::unique_ptr<PeerMemory> make_foreign_host_memory(Control& world, std::span<const OwnedBlock> storages);
std::unique_ptr<PeerMemory> make_foreign_device_memory(Control& world, std::span<const OwnedBlock> storages);
std::vector<std::uint64_t> host_identities(std::span<const OwnedBlock> storages);
std::vector<std::uint64_t> device_identities(std::span<const OwnedBlock> storages);

}  // namespace refit::transport
