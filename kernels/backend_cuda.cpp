#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <string>

#include "core/error.hpp"
#include "kernels/backend.hpp"
#include "kernels/device_name.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels::backend {

namespace {

int selected = 0;  ///< CUDA's current device is a property of each thread

std::string version_name(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// Throws the error for cudaErrorInsufficientDriver.
[[noreturn]] void fail_driver() {
  int driver = 0;  // stays so where there is none
  int runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    fail_unavailable("the versions of the CUDA driver and runtime cannot be read: check the driver with nvidia-smi");
  }
  if (driver == 0) {
    fail_unavailable(
        "no GPU driver on this machine: kernels are built for CUDA; install a driver for CUDA {} or later (start a "
        "container with its GPUs), or use a build with a CPU Kokkos",
        version_name(runtime));
  }
  fail_unavailable(
      "the GPU driver of this machine supports CUDA {}, too old for refit, which is built with CUDA {}: install a "
      "driver "
      "for CUDA {} or later, or build with a CUDA that this driver supports",
      version_name(driver), version_name(runtime), version_name(runtime));
}

int count_devices() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaErrorInsufficientDriver) fail_driver();
  if (status == cudaErrorNoDevice || (status == cudaSuccess && devices == 0)) {
    fail_unavailable("no GPU on this machine: kernels are built for CUDA; use a build with a CPU Kokkos");
  }
  if (status != cudaSuccess) {
    fail_unavailable("the GPUs of this machine cannot be used: {}; check them with nvidia-smi",
                     cudaGetErrorString(status));
  }
  return devices;
}

/// Returns the memory, or null after a failure, whose error is taken back: the next kernel would report it.
std::byte* checked(cudaError_t status, void* data) {
  if (status == cudaSuccess) return static_cast<std::byte*>(data);
  cudaGetLastError();
  return nullptr;
}

}  // namespace

int select_device(int local_rank, int local_ranks) {
  selected = device_of(local_rank, local_ranks, count_devices());
  if (const cudaError_t status = cudaSetDevice(selected); status != cudaSuccess) {
    fail_unavailable("GPU {} cannot be used: {}; check it with nvidia-smi", selected, cudaGetErrorString(status));
  }
  return selected;
}

int select_current_device() {
  count_devices();
  if (const cudaError_t status = cudaGetDevice(&selected); status != cudaSuccess)
    fail_unavailable("there is no current GPU: {}; check it with nvidia-smi", cudaGetErrorString(status));
  return selected;
}

int enter_device() {
  int before = selected;
  cudaGetDevice(&before);
  if (before != selected) cudaSetDevice(selected);
  return before;
}

void leave_device(int before) {
  if (before != selected) cudaSetDevice(before);
}

std::string device_uuid() {
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, selected); status != cudaSuccess) {
    fail_unavailable("GPU {} has no UUID: {}; check it with nvidia-smi", selected, cudaGetErrorString(status));
  }
  return {properties.uuid.bytes, sizeof(properties.uuid.bytes)};
}

std::byte* allocate_device(std::int64_t bytes) {
  void* data = nullptr;
  cudaSetDevice(selected);
  const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  return checked(status, data);
}
void release_device(std::byte* data) { cudaFree(data); }

std::byte* allocate_shared(std::int64_t bytes) {
  void* data = nullptr;
  cudaSetDevice(selected);
  const cudaError_t status =
      cudaHostAlloc(&data, static_cast<std::size_t>(bytes), cudaHostAllocPortable | cudaHostAllocMapped);
  return checked(status, data);
}
void release_shared(std::byte* data) { cudaFreeHost(data); }

std::string transfer(const std::byte* source, std::byte* destination, std::int64_t bytes, std::int64_t times) {
  cudaError_t status = cudaSetDevice(selected);
  for (std::int64_t i = 0; i < times && status == cudaSuccess; ++i) {
    status =
        cudaMemcpyAsync(destination, source, static_cast<std::size_t>(bytes), cudaMemcpyDefault, cudaStreamPerThread);
  }
  if (status == cudaSuccess) status = cudaStreamSynchronize(cudaStreamPerThread);
  if (status == cudaSuccess) return {};
  cudaGetLastError();
  return cudaGetErrorString(status);
}

void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }

}  // namespace refit::kernels::backend

namespace refit::kernels {

std::string device_name() {
  cudaDeviceProp properties{};
  char bus[32] = {};
  cudaError_t status = cudaGetDeviceProperties(&properties, backend::selected);
  if (status == cudaSuccess) status = cudaDeviceGetPCIBusId(bus, sizeof(bus), backend::selected);
  if (status != cudaSuccess)
    fail_unavailable("GPU {} has no name: {}; check it with nvidia-smi", backend::selected, cudaGetErrorString(status));
  return fmt::format("{} {}", bus, properties.name);
}

}  // namespace refit::kernels
