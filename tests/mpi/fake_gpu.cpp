#include "mpi/fake_gpu.hpp"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "core/error.hpp"
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 29, 0)
#include <nccl_device/core.h>
#endif

using refit::test_support::fake_gpu;

/// NCCL's own type; here what a test's communicator is made of.
struct ncclComm {
  int rank;
  int size;
  ncclResult_t state;
  int polls_left;  ///< until the state is told: calls are not blocking
};

namespace refit::test_support {

FakeGpu& fake_gpu() {
  static FakeGpu gpu;
  return gpu;
}

std::byte* fake_window(int rank) {
  return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40 | static_cast<std::uintptr_t>(rank + 1) << 21);
}
std::byte* fake_ipc() { return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 41); }

}  // namespace refit::test_support

namespace {

void* allocate(std::size_t bytes) {
  if (!fake_gpu().allocates) return nullptr;
  ++fake_gpu().allocations;
  return std::aligned_alloc(1 << 12, bytes);
}

void release(void* data) {
  if (data != nullptr) --fake_gpu().allocations;
  std::free(data);
}

ncclResult_t begin(ncclComm_t comm, ncclResult_t outcome) {
  comm->state = outcome;
  comm->polls_left = 3;
  return ncclInProgress;
}

ncclResult_t end(ncclComm_t comm) {
  delete comm;
  --fake_gpu().communicators;
  return ncclSuccess;
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "CUDA";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char* text, int, int) { return std::strcpy(text, "0000:00:00.0"), cudaSuccess; }
cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* total) {
  *available = *total = std::size_t{1} << 40;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = allocate(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* data) { return release(data), cudaSuccess; }
cudaError_t cudaMemcpy(void*, const void*, std::size_t, cudaMemcpyKind) { return cudaErrorNotSupported; }
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return cudaSuccess; }
cudaError_t cudaIpcOpenMemHandle(void** data, cudaIpcMemHandle_t, unsigned int) {
  return *data = refit::test_support::fake_ipc(), cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void*) { return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) { return *event = nullptr, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaErrorNotSupported; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }

const char* ncclGetErrorString(ncclResult_t result) { return result == ncclSystemError ? "system error" : "NCCL"; }
const char* ncclGetLastError(ncclComm_t) { return "made to fail"; }
ncclResult_t ncclGetVersion(int* version) { return *version = fake_gpu().nccl_version, ncclSuccess; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return *id = {}, ncclSuccess; }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId, int rank, ncclConfig_t*) {
  *comm = new ncclComm{rank, size, ncclSuccess, 0};
  ++fake_gpu().communicators;
  return begin(*comm, fake_gpu().creates);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = comm->polls_left > 0 ? ncclInProgress : comm->state;
  comm->polls_left -= comm->polls_left > 0 ? 1 : 0;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) { return begin(comm, ncclSuccess); }
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return end(comm); }
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  fake_gpu().windows = 0;  // of the communicator; there is one
  return end(comm);
}
ncclResult_t ncclMemAlloc(void** data, std::size_t bytes) {
  *data = allocate(bytes);
  return *data == nullptr ? ncclUnhandledCudaError : ncclSuccess;
}
ncclResult_t ncclMemFree(void* data) { return release(data), ncclSuccess; }

// What communicators of messages use.
ncclResult_t ncclCommRegister(const ncclComm_t, void*, std::size_t, void**) { return ncclInternalError; }
ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclInternalError; }
ncclResult_t ncclCommSplit(ncclComm_t, int, int, ncclComm_t*, ncclConfig_t*) { return ncclInternalError; }
ncclResult_t ncclGroupStart() { return ncclInternalError; }
ncclResult_t ncclGroupEnd() { return ncclInternalError; }
ncclResult_t ncclSend(const void*, std::size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t) {
  return ncclInternalError;
}
ncclResult_t ncclRecv(void*, std::size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t) { return ncclInternalError; }
ncclResult_t ncclBroadcast(const void*, void*, std::size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t) {
  return ncclInternalError;
}

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 29, 0)
ncclResult_t ncclCommQueryProperties(ncclComm_t, ncclCommProperties_t* properties) {
  properties->deviceApiSupport = fake_gpu().has_windows;
  return ncclSuccess;
}
ncclTeam_t ncclTeamLsa(ncclComm_t comm) {
  const int size = fake_gpu().team_size == 0 ? comm->size : fake_gpu().team_size;
  return {size, comm->rank % size, 1};
}
/// As NCCL's, it is done when the communicator's state says so, and then only the window is there.
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* data, std::size_t, ncclWindow_t* window, int) {
  if (fake_gpu().registers == ncclSuccess) {
    ++fake_gpu().windows;
    *window = static_cast<ncclWindow_t>(data);
  }
  begin(comm, fake_gpu().registers);
  return ncclSuccess;
}
ncclResult_t ncclCommWindowDeregister(ncclComm_t, ncclWindow_t) { return --fake_gpu().windows, ncclSuccess; }
ncclResult_t ncclGetPeerDevicePointer(ncclWindow_t, std::size_t, int rank, void** address) {
  *address = fake_gpu().out_of_reach.contains(rank) ? nullptr : refit::test_support::fake_window(rank);
  return ncclSuccess;
}
#endif

}  // extern "C"
