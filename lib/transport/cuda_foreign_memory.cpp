// Device memory that somebody else has allocated. CUDA IPC shares whole allocations: what a caching allocator has cut
// out of one is an offset in it.

#include <cuda.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <random>

#include "core/hash.hpp"
#include "transport/cuda_handles.hpp"
#include "transport/foreign_memory.hpp"
#include "transport/foreign_regions.hpp"
#include "transport/location.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

using GetAttributes = CUresult(CUDAAPI*)(unsigned int, CUpointer_attribute*, void**, CUdeviceptr);

/// Returns the driver's cuPointerGetAttributes, through the runtime: nothing here is linked to the driver.
GetAttributes find_get_attributes() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state{};
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuPointerGetAttributes", &found, 12000, cudaEnableDefault, &state);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuPointerGetAttributes", &found, cudaEnableDefault, &state);
#endif
  check_cuda(error, "cuPointerGetAttributes");
  if (state != cudaDriverEntryPointSuccess || found == nullptr)
    fail_unavailable("the CUDA driver has no cuPointerGetAttributes: install the one of CUDA 12.4 or later");
  return reinterpret_cast<GetAttributes>(found);
}

/// What the driver knows of the memory at an address. All zero: nothing.
struct Allocation {
  CUdeviceptr begin = 0;  ///< of the allocation, or of the reserved addresses that it is mapped to
  std::size_t bytes = 0;
  unsigned long long id = 0;  ///< never used again in this process
  unsigned int type = 0;      ///< CUmemorytype
  int device = 0;
  int is_managed = 0;
  int is_mapped = 0;      ///< something is behind the address
  int can_be_shared = 0;  ///< by CUDA IPC
  CUmemoryPool pool = nullptr;

  bool contains(CUdeviceptr address) const { return address >= begin && address - begin < bytes; }
};

CUdeviceptr address_of(const std::byte* data) { return reinterpret_cast<CUdeviceptr>(data); }
std::byte* data_at(CUdeviceptr address) {
  return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

Allocation inspect(CUdeviceptr address) {
  static const GetAttributes get_attributes = find_get_attributes();
  Allocation result;
  std::array names{CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE,
                   CU_POINTER_ATTRIBUTE_BUFFER_ID,        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                   CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,   CU_POINTER_ATTRIBUTE_IS_MANAGED,
                   CU_POINTER_ATTRIBUTE_MAPPED,           CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
                   CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE};
  std::array<void*, names.size()> values{&result.begin,     &result.bytes,         &result.id,
                                         &result.type,      &result.device,        &result.is_managed,
                                         &result.is_mapped, &result.can_be_shared, &result.pool};
  const CUresult error = get_attributes(static_cast<unsigned int>(names.size()), names.data(), values.data(), address);
  return error == CUDA_SUCCESS ? result : Allocation{};
}

/// Returns the current device, with its context made current in this thread: the driver's functions need that.
int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "the current device");
  check_cuda(cudaSetDevice(device), "the current device");
  return device;
}

/// Finds the allocations of storages, and asks the driver once for each allocation that can be shared. An object is
/// good as long as nothing is allocated or freed.
class Allocations {
 public:
  Allocation of(const OwnedBlock& storage) {
    const CUdeviceptr address = address_of(storage.address);
    const auto above = known_.upper_bound(address);
    if (above != known_.begin() && std::prev(above)->second.contains(address)) {
      const Allocation& known = std::prev(above)->second;
      check_end(storage, known);
      return known;
    }
    const Allocation found = inspect(address);
    check(storage, found);
    if (found.can_be_shared != 0) known_[found.begin] = found;
    return found;
  }

 private:
  void check(const OwnedBlock& storage, const Allocation& found) const {
    const bool of_pages = found.type == CU_MEMORYTYPE_DEVICE && found.can_be_shared == 0 && found.is_managed == 0;
    if (found.type == 0 || (of_pages && found.is_mapped == 0)) {
      fail_about(
          storage.name,
          "its {} bytes at {} are not memory of a GPU: they lie on the host, have been freed, or the engine sleeps "
          "(vLLM's sleep mode: wake it first)",
          storage.bytes, fmt::ptr(storage.address));
    }
    if (found.is_managed != 0) return;
    if (found.type != CU_MEMORYTYPE_DEVICE) {
      fail_about(storage.name,
                 "it lies in main memory, and refit's kernels run on GPU {} in this process: move it there", device_);
    }
    if (found.device != device_) {
      fail_about(
          storage.name,
          "it lies on GPU {}, and refit's kernels run on GPU {} in this process: all of a rank's tensors must be "
          "there",
          found.device, device_);
    }
    if (found.can_be_shared != 0) check_end(storage, found);
  }

  static void check_end(const OwnedBlock& storage, const Allocation& found) {
    const std::size_t before = address_of(storage.address) - found.begin;
    if (static_cast<std::size_t>(storage.bytes) > found.bytes - before) {
      fail_about(storage.name, "its {} bytes at {} go beyond the end of their allocation", storage.bytes,
                 fmt::ptr(storage.address));
    }
  }

  const int device_ = current_device();
  std::map<CUdeviceptr, Allocation> known_;
};

/// Returns why other processes cannot map an allocation, and what to do; empty if they can.
std::string reason(const Allocation& allocation) {
  if (allocation.is_managed != 0) return "managed memory, which CUDA IPC cannot share: allocate it with cudaMalloc";
  if (allocation.can_be_shared != 0) return {};
  if (allocation.pool != nullptr) {
    return "memory of a stream-ordered pool (cudaMallocAsync), which CUDA IPC cannot share: start with "
           "PYTORCH_CUDA_ALLOC_CONF=backend:native (torch)";
  }
  return "memory of expandable segments or of another allocator of mapped pages (cuMemCreate; vLLM's sleep mode), "
         "which "
         "CUDA IPC cannot share: start with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False (torch), or it is "
         "refitted "
         "by NCCL (executor p2p)";
}

/// Returns a number that no other process of any host has.
std::uint64_t this_process() {
  static const std::uint64_t drawn = [] {
    std::random_device random;
    return std::uint64_t{random()} << 32 | random();
  }();
  return combine(drawn, static_cast<std::uint64_t>(getpid()));  // children of a fork have the same number drawn
}

/// An allocation as its process offers it to others.
struct OfferedBlock {
  cudaIpcMemHandle_t handle;
  unsigned long long id;
  std::int64_t bytes;
};

struct Offer {
  std::string reason;                ///< why others cannot map the memory; empty: they may try
  std::vector<Range> ranges;         ///< own; not told
  std::vector<OfferedBlock> blocks;  ///< of each range
};

Control::Bytes packed(const Offer& offer) {
  Control::Bytes bytes;
  append(bytes, location().host);
  append(bytes, this_process());
  append_text(bytes, offer.reason);
  append(bytes, std::ssize(offer.blocks));
  for (const OfferedBlock& block : offer.blocks) append(bytes, block);
  return bytes;
}

Offer offer(std::span<const OwnedBlock> storages) {
  Offer result;
  Allocations allocations;
  std::map<CUdeviceptr, Allocation> shared;
  for (const OwnedBlock& storage : storages) {
    if (storage.bytes == 0) continue;
    const Allocation allocation = allocations.of(storage);
    const std::string why = reason(allocation);
    if (why.empty()) {
      const bool is_new = shared.emplace(allocation.begin, allocation).second;
      if (is_new) result.ranges.push_back({data_at(allocation.begin), static_cast<std::int64_t>(allocation.bytes), 0});
      continue;
    }
    if (result.reason.empty()) result.reason = fmt::format("{} lies in {}", storage.name, why);
    result.ranges.push_back({storage.address, storage.bytes, kUnshared});
  }
  join(result.ranges);
  for (const Range& range : result.ranges) {
    if (!result.reason.empty()) break;
    OfferedBlock block{{}, shared.at(address_of(range.address)).id, range.bytes};
    const cudaError_t error = cudaIpcGetMemHandle(&block.handle, range.address);
    if (error != cudaSuccess) {
      cudaGetLastError();  // or the next check of a launch would find it
      const auto inside = std::ranges::find_if(storages, [&](const OwnedBlock& storage) {
        return storage.address >= range.address && storage.address < range.address + range.bytes;
      });
      result.reason =
          fmt::format("{} lies in memory that CUDA IPC cannot share: {}", inside->name, cudaGetErrorString(error));
    }
    result.blocks.push_back(block);
  }
  return result;
}

/// The blocks of other processes that this one has opened. There is one list per process, since CUDA opens a block
/// once: sessions that use the same one share it.
class OpenedBlocks {
 public:
  static OpenedBlocks& instance() {
    static OpenedBlocks blocks;
    return blocks;
  }

  /// Returns where a block of process `process` is here; nullptr, with the reason, where it cannot be opened. It is
  /// closed with the last pointer to it.
  std::shared_ptr<std::byte> open(std::uint64_t process, const OfferedBlock& block, std::string& why) {
    const std::lock_guard lock(mutex_);
    const auto user = [&](Opened& opened) {
      ++opened.users;
      return std::shared_ptr<std::byte>(opened.data,
                                        [this, process, id = block.id](std::byte*) { close(process, id); });
    };
    const auto found = blocks_.find({process, block.id});
    if (found != blocks_.end()) return user(found->second);
    for (const auto& [key, opened] : blocks_) {
      if (key.first != process || std::memcmp(&opened.handle, &block.handle, sizeof(block.handle)) != 0) continue;
      why = "it has been allocated anew, and a session that has the old memory open is still there: destroy it first";
      return nullptr;
    }
    void* data = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&data, block.handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
      cudaGetLastError();
      why = cudaGetErrorString(error);
      return nullptr;
    }
    const Allocation here = inspect(reinterpret_cast<CUdeviceptr>(data));
    if (here.bytes > 0 &&
        here.begin + here.bytes < reinterpret_cast<CUdeviceptr>(data) + static_cast<std::size_t>(block.bytes)) {
      cudaIpcCloseMemHandle(data);
      why = fmt::format("CUDA IPC opens only {} of its {} bytes", here.bytes, block.bytes);
      return nullptr;
    }
    const auto made =
        blocks_.emplace(std::pair{process, block.id}, Opened{block.handle, static_cast<std::byte*>(data), 0});
    return user(made.first->second);
  }

 private:
  void close(std::uint64_t process, unsigned long long id) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find({process, id});
    if (--found->second.users > 0) return;
    cudaIpcCloseMemHandle(found->second.data);
    cudaGetLastError();
    blocks_.erase(found);
  }

  struct Opened {
    cudaIpcMemHandle_t handle;
    std::byte* data;
    std::int64_t users;
  };
  std::recursive_mutex mutex_;  ///< a pointer that cannot be made closes its block at once
  std::map<std::pair<std::uint64_t, unsigned long long>, Opened> blocks_;  ///< by process and its id of the block
};

class ForeignDeviceMemory final : public ForeignMemory {
 public:
  ForeignDeviceMemory(Control& world, const Offer& mine, const std::vector<Control::Bytes>& offers)
      : ForeignMemory(world, mine.ranges), world_(world) {
    const std::uint64_t host = location().host;
    for (std::size_t rank = 0; rank < offers.size(); ++rank) {
      if (rank != own()) map_rank(rank, Reader(offers[rank]), host);
    }
  }

  /// No rank may free its memory before all have closed it. While an exception unwinds, the others may never come.
  ~ForeignDeviceMemory() override {
    opened_.clear();
    if (std::uncaught_exceptions() > 0) return;
    try {
      world_.barrier();
    } catch (const Error&) {  // the others are gone, and have closed it by that
    }
  }
  ForeignDeviceMemory(const ForeignDeviceMemory&) = delete;
  ForeignDeviceMemory& operator=(const ForeignDeviceMemory&) = delete;

  void fence() override { check_cuda(cudaDeviceSynchronize(), "a fence"); }  // as IpcPeerMemory's

 private:
  void map_rank(std::size_t rank, Reader offer, std::uint64_t host) {
    const bool here = offer.take<std::uint64_t>() == host;
    const auto process = offer.take<std::uint64_t>();
    const std::string reason = offer.take_text();
    if (!here) return leave_unmapped(rank, "it is on another host");
    if (!reason.empty()) return leave_unmapped(rank, reason);
    Regions regions;
    for (auto blocks = offer.take<std::int64_t>(); blocks > 0; --blocks) {
      const auto block = offer.take<OfferedBlock>();
      std::string why;
      std::shared_ptr<std::byte> data = OpenedBlocks::instance().open(process, block, why);
      if (data == nullptr) return leave_unmapped(rank, fmt::format("a block of {} bytes: {}", block.bytes, why));
      regions.add(data.get(), block.bytes);
      opened_.push_back(std::move(data));
    }
    set(rank, std::move(regions));
  }

  Control& world_;
  std::vector<std::shared_ptr<std::byte>> opened_;
};

}  // namespace

std::unique_ptr<PeerMemory> make_foreign_device_memory(Control& world, std::span<const OwnedBlock> storages) {
  Offer mine;
  together(world, [&] { mine = offer(storages); });
  const std::vector<Control::Bytes> offers = world.gather_all(packed(mine));
  std::unique_ptr<PeerMemory> result;
  // Together also at the end: nobody goes on, and frees its memory perhaps, before all have mapped it.
  together(world, [&] { result = std::make_unique<ForeignDeviceMemory>(world, mine, offers); });
  return result;
}

std::vector<std::uint64_t> device_identities(std::span<const OwnedBlock> storages) {
  std::vector<std::uint64_t> result;
  result.reserve(storages.size());
  Allocations allocations;
  for (const OwnedBlock& storage : storages) {
    const std::uint64_t id = storage.bytes == 0 ? 0 : allocations.of(storage).id;
    result.push_back(combine(id, address_of(storage.address)));
  }
  return result;
}

}  // namespace refit::transport
