#include <algorithm>
#include <array>
#include <exception>

#include "core/box.hpp"
#include "transport/cuda.hpp"
#include "transport/cuda_handles.hpp"
#include "transport/location.hpp"

namespace refit::transport {
namespace {

/// CUDA cuts smaller allocations out of blocks of this size, and an IPC handle shares the whole block.
constexpr std::int64_t kBlockBytes = std::int64_t{2} << 20;

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

std::int64_t free_bytes() {
  std::size_t available = 0;
  std::size_t total = 0;
  check_cuda(cudaMemGetInfo(&available, &total), "the free memory");
  return static_cast<std::int64_t>(available);
}

/// Returns the PCI address of the current device, e.g. "0000:3B:00.0".
std::string pci_bus_id() {
  int device = 0;
  std::array<char, 32> text{};
  check_cuda(cudaGetDevice(&device), "the current device");
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device), "the PCI bus id");
  return text.data();
}

/// The memory that a rank needs on its device.
struct Need {
  Location where;
  std::int64_t bytes = 0;
  std::int64_t available = 0;
  std::array<char, 32> bus_id{};
};

Need need_of(std::int64_t bytes) {
  Need need{location(), bytes, free_bytes(), {}};
  const std::string bus_id = pci_bus_id();
  std::copy_n(bus_id.begin(), std::min(bus_id.size(), need.bus_id.size() - 1), need.bus_id.begin());
  return need;
}

/// Throws on all ranks or on none where a device has too little memory.
void require_space(const std::vector<Need>& needs) {
  for (std::size_t rank = 0; rank < needs.size(); ++rank) {
    std::int64_t bytes = 0;
    for (const Need& other : needs) bytes += other.where.device == needs[rank].where.device ? other.bytes : 0;
    if (bytes <= needs[rank].available) continue;
    fail_runtime(
        "device memory: {:.2f} GiB are needed for the gen arenas of the ranks on GPU {} of world rank {}, and {:.2f} "
        "GiB are free; use fewer layers (--layers), a -small model, or more GPUs",
        gib(bytes), needs[rank].bus_id.data(), rank, gib(needs[rank].available));
  }
}

/// The memory that a rank offers to the others.
struct Offer {
  cudaError_t allocated = cudaSuccess;
  cudaError_t shared = cudaSuccess;
  cudaIpcMemHandle_t handle{};
};

class IpcPeerMemory final : public PeerMemory {
 public:
  IpcPeerMemory(Control& world, std::int64_t bytes) : world_(world) {
    bytes = round_up(bytes, kBlockBytes);
    const std::vector<Need> needs = gather_all(world, need_of(bytes));
    require_space(needs);
    arenas_.assign(needs.size(), nullptr);
    const std::vector<Offer> offers = gather_all(world, allocate(bytes));
    for (std::size_t rank = 0; rank < offers.size(); ++rank) {
      if (offers[rank].allocated == cudaSuccess) continue;
      release();
      fail_runtime("device memory: world rank {} cannot allocate {:.2f} GiB: {}", rank, gib(needs[rank].bytes),
                   cudaGetErrorString(offers[rank].allocated));
    }
    for (std::size_t rank = 0; rank < offers.size(); ++rank) {
      if (rank != own() && needs[rank].bytes > 0) open(rank, needs[rank], needs[own()], offers[rank]);
    }
  }

  ~IpcPeerMemory() override {
    for (std::size_t rank = 0; rank < arenas_.size(); ++rank) {
      if (rank != own() && arenas_[rank] != nullptr) cudaIpcCloseMemHandle(arenas_[rank]);
    }
    // Freeing memory that another process still has open is undefined. While an exception unwinds, the others may never
    // come: then the process ends, and the driver frees its memory.
    if (std::uncaught_exceptions() > 0) return;
    try {
      world_.barrier();
      release();
    } catch (const Error&) {  // the others are gone: the end of the process frees it here too
    }
  }
  IpcPeerMemory(const IpcPeerMemory&) = delete;
  IpcPeerMemory& operator=(const IpcPeerMemory&) = delete;

  std::byte* local() const override { return arenas_[own()]; }
  std::byte* map(int rank) const override { return arenas_[static_cast<std::size_t>(rank)]; }

  /// A kernel's stores, to any device, are visible to the whole system once a host call has seen the kernel end, and a
  /// kernel that is launched later reads no stale line. So it is enough that everything enqueued here has ended.
  void fence() override { check_cuda(cudaDeviceSynchronize(), "a fence"); }

  std::string note() const override {
    if (unmapped_ == 0) return {};
    return fmt::format("device memory of {} of {} ranks cannot be mapped by world rank {}; the first: {}", unmapped_,
                       arenas_.size(), own(), first_reason_);
  }

 private:
  std::size_t own() const { return static_cast<std::size_t>(world_.rank()); }

  Offer allocate(std::int64_t bytes) {
    Offer offer;
    if (bytes == 0) return offer;
    void* data = nullptr;
    offer.allocated = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (offer.allocated == cudaSuccess) {
      arenas_[own()] = static_cast<std::byte*>(data);
      offer.shared = cudaIpcGetMemHandle(&offer.handle, data);
    }
    cudaGetLastError();  // the error is in the offer: the next check of a launch must not see it again
    return offer;
  }

  void open(std::size_t rank, const Need& theirs, const Need& mine, const Offer& offer) {
    if (theirs.where.host != mine.where.host) return leave_unmapped(rank, "it is on another host");
    if (offer.shared != cudaSuccess) return leave_unmapped(rank, cudaGetErrorString(offer.shared));
    void* data = nullptr;
    const cudaError_t opened = cudaIpcOpenMemHandle(&data, offer.handle, cudaIpcMemLazyEnablePeerAccess);
    if (opened == cudaSuccess) {
      arenas_[rank] = static_cast<std::byte*>(data);
    } else {
      cudaGetLastError();
      leave_unmapped(rank, cudaGetErrorString(opened));
    }
  }

  void leave_unmapped(std::size_t rank, const char* reason) {
    if (unmapped_++ == 0) first_reason_ = fmt::format("world rank {}, {}", rank, reason);
  }

  void release() {
    if (arenas_[own()] != nullptr) cudaFree(arenas_[own()]);
    arenas_[own()] = nullptr;
  }

  Control& world_;
  std::vector<std::byte*> arenas_;  // by world rank
  std::int64_t unmapped_ = 0;
  std::string first_reason_;
};

}  // namespace

DeviceArena::DeviceArena(std::int64_t bytes) : data_(nullptr, [](std::byte* data) { cudaFree(data); }), bytes_(bytes) {
  if (bytes == 0) return;
  const std::int64_t available = free_bytes();
  if (bytes > available) {
    fail_runtime("device memory: {:.2f} GiB are needed on GPU {}, and {:.2f} GiB are free", gib(bytes), pci_bus_id(),
                 gib(available));
  }
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, static_cast<std::size_t>(bytes)), "device memory");
  data_.reset(static_cast<std::byte*>(data));
}

std::unique_ptr<PeerMemory> make_cuda_peer_memory(Control& world, std::int64_t bytes) {
  return std::make_unique<IpcPeerMemory>(world, bytes);
}

}  // namespace refit::transport
