#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <optional>
#include <utility>

#include "core/box.hpp"
#include "transport/cuda.hpp"
#include "transport/cuda_handles.hpp"
#include "transport/location.hpp"
#include "transport/nccl_windows.hpp"

namespace refit::transport {
namespace {

/// CUDA cuts smaller allocations out of blocks of this size, and an IPC handle shares the whole block; a page of a
/// window is as long.
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

/// Memory of devices that is mapped once, when it is made.
class DevicePeerMemory : public PeerMemory {
 public:
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

 protected:
  explicit DevicePeerMemory(Control& world) : world_(world), arenas_(static_cast<std::size_t>(world.size()), nullptr) {}

  std::size_t own() const { return static_cast<std::size_t>(world_.rank()); }

  void leave_unmapped(std::size_t rank, std::string_view reason) {
    if (unmapped_++ == 0) first_reason_ = fmt::format("world rank {}, {}", rank, reason);
  }

  /// Waits until no rank has this rank's memory mapped any more; returns false where that will never be known.
  bool wait_for_all() {
    // While an exception unwinds, the others may never come.
    if (std::uncaught_exceptions() > 0) return false;
    try {
      world_.barrier();
    } catch (const Error&) {  // the others are gone
      return false;
    }
    return true;
  }

  Control& world_;
  std::vector<std::byte*> arenas_;  // by world rank

 private:
  std::int64_t unmapped_ = 0;
  std::string first_reason_;
};

/// Throws on all ranks or on none where a rank could not allocate. `mine`: why this one could not; empty: it could.
/// `release` gives back what this one has.
void require_allocated(Control& world, const std::vector<Need>& needs, const std::string& mine,
                       const std::function<void()>& release) {
  Control::Bytes bytes;
  append_text(bytes, mine);
  const std::vector<Control::Bytes> all = world.gather_all(bytes);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const std::string error = Reader(all[rank]).take_text();
    if (error.empty()) continue;
    release();
    fail_runtime("device memory: world rank {} cannot allocate {:.2f} GiB: {}", rank, gib(needs[rank].bytes), error);
  }
}

/// The memory that a rank offers to the others.
struct Offer {
  cudaError_t shared = cudaSuccess;
  cudaIpcMemHandle_t handle{};
};

class IpcPeerMemory final : public DevicePeerMemory {
 public:
  /// `no_windows`: why NCCL windows are not used; empty: nobody has asked for them.
  IpcPeerMemory(Control& world, const std::vector<Need>& needs, std::string no_windows)
      : DevicePeerMemory(world), no_windows_(std::move(no_windows)) {
    std::string error;
    const Offer mine = allocate(needs[own()].bytes, error);
    require_allocated(world, needs, error, [this] { release(); });
    const std::vector<Offer> offers = gather_all(world, mine);
    for (std::size_t rank = 0; rank < offers.size(); ++rank) {
      if (rank != own() && needs[rank].bytes > 0) open(rank, needs[rank], needs[own()], offers[rank]);
    }
  }

  ~IpcPeerMemory() override {
    for (std::size_t rank = 0; rank < arenas_.size(); ++rank) {
      if (rank != own() && arenas_[rank] != nullptr) cudaIpcCloseMemHandle(arenas_[rank]);
    }
    // Freeing memory that another process still has open is undefined: else the end of the process frees it.
    if (wait_for_all()) release();
  }
  IpcPeerMemory(const IpcPeerMemory&) = delete;
  IpcPeerMemory& operator=(const IpcPeerMemory&) = delete;

  std::string mechanism() const override {
    if (no_windows_.empty()) return "device memory is mapped by CUDA IPC";
    return fmt::format("device memory is mapped by CUDA IPC, not by NCCL windows: {}", no_windows_);
  }

 private:
  Offer allocate(std::int64_t bytes, std::string& error) {
    Offer offer;
    if (bytes == 0) return offer;
    void* data = nullptr;
    const cudaError_t allocated = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (allocated == cudaSuccess) {
      arenas_[own()] = static_cast<std::byte*>(data);
      offer.shared = cudaIpcGetMemHandle(&offer.handle, data);
    } else {
      error = cudaGetErrorString(allocated);
    }
    cudaGetLastError();  // the errors are taken down: the next check of a launch must not see them again
    return offer;
  }

  void open(std::size_t rank, const Need& theirs, const Need& mine, const Offer& offer) {
    // CUDA cannot be asked: it has been seen to open a handle of another host, as if it were some memory of this one
    // (StanfordLegion/realm, issue 179). NCCL compares hosts before it opens one, too.
    if (theirs.where.host != mine.where.host) {
      const std::string windows = no_windows_.empty() ? "" : ", and NCCL windows are not used: " + no_windows_;
      return leave_unmapped(rank, "it is on another host" + windows);
    }
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

  void release() {
    if (arenas_[own()] != nullptr) cudaFree(arenas_[own()]);
    arenas_[own()] = nullptr;
  }

  const std::string no_windows_;
};

/// Memory of ncclMemAlloc; freed with the object.
class NcclMemory {
 public:
  NcclMemory() = default;
  /// Errors (runtime): NCCL's own, with CUDA's reason.
  explicit NcclMemory(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    const ncclResult_t result = ncclMemAlloc(&data_, bytes_);
    cudaGetLastError();
    if (result == ncclSuccess) return;
    const char* detail = ncclGetLastError(nullptr);
    fail_runtime("{} ({})", ncclGetErrorString(result), detail == nullptr ? "" : detail);
  }
  ~NcclMemory() {
    if (data_ != nullptr) ncclMemFree(data_);
  }
  NcclMemory(NcclMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  NcclMemory& operator=(NcclMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(data_), bytes_}; }
  void leak() { data_ = nullptr; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The pages behind a window live as long as any process has them mapped: unlike CUDA IPC's, memory may be freed while
/// others still store into it.
class WindowPeerMemory final : public DevicePeerMemory {
 public:
  /// `memory`: this rank's; `addresses`: by world rank.
  WindowPeerMemory(Control& world, std::shared_ptr<NcclWindows> windows, std::size_t window, NcclMemory memory,
                   const std::vector<std::byte*>& addresses, const std::vector<Need>& needs)
      : DevicePeerMemory(world), windows_(std::move(windows)), window_(window), memory_(std::move(memory)) {
    for (std::size_t rank = 0; rank < needs.size(); ++rank) {
      if (needs[rank].bytes == 0) continue;
      // Own memory at its own address: a kernel must not meet one place under two.
      arenas_[rank] = rank == own() ? memory_.span().data() : addresses[rank];
      if (arenas_[rank] == nullptr)
        leave_unmapped(rank, "it is in another NVLink domain: NCCL has no address of its window");
    }
  }

  ~WindowPeerMemory() override {
    if (std::uncaught_exceptions() > 0) {
      memory_.leak();  // kernels of this rank may still be at work in it: the end of the process frees it
      return;
    }
    windows_->remove(window_);
    wait_for_all();  // so that the bytes are free when this returns
  }
  WindowPeerMemory(const WindowPeerMemory&) = delete;
  WindowPeerMemory& operator=(const WindowPeerMemory&) = delete;

  std::string mechanism() const override { return "device memory is mapped by NCCL windows"; }

 private:
  std::shared_ptr<NcclWindows> windows_;
  std::size_t window_;
  NcclMemory memory_;
};

/// Returns memory in windows; nullptr where they are refused.
std::unique_ptr<PeerMemory> make_window_memory(Control& world, const std::vector<Need>& needs,
                                               std::shared_ptr<NcclWindows> windows) {
  // Every rank has a window, if only of one page.
  std::vector<std::int64_t> sizes;
  for (const Need& need : needs) sizes.push_back(std::max(need.bytes, kBlockBytes));
  if (!windows->serve(world, sizes)) return nullptr;
  NcclMemory memory;
  std::string error;
  try {
    memory = NcclMemory(sizes[static_cast<std::size_t>(world.rank())]);
  } catch (const Error& caught) {
    error = caught.what();
  }
  require_allocated(world, needs, error, [] {});
  std::vector<std::byte*> addresses(needs.size(), nullptr);
  const std::optional<std::size_t> window = windows->add(world, memory.span(), addresses);
  if (!window) return nullptr;
  return std::make_unique<WindowPeerMemory>(world, std::move(windows), *window, std::move(memory), addresses, needs);
}

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

std::shared_ptr<NcclWindows> make_nccl_windows(double timeout_seconds) {
  return std::make_shared<NcclWindows>(timeout_seconds);
}

std::unique_ptr<PeerMemory> make_cuda_peer_memory(Control& world, std::int64_t bytes,
                                                  const std::shared_ptr<NcclWindows>& windows) {
  const std::vector<Need> needs = gather_all(world, need_of(round_up(bytes, kBlockBytes)));
  require_space(needs);
  if (windows != nullptr) {
    std::unique_ptr<PeerMemory> memory = make_window_memory(world, needs, windows);
    if (memory != nullptr) return memory;
  }
  return std::make_unique<IpcPeerMemory>(world, needs, windows == nullptr ? "" : windows->refusal());
}

}  // namespace refit::transport
