#include "transport/cuda_device.hpp"

#include <unistd.h>

#include <array>
#include <fstream>

#include "core/hash.hpp"
#include "transport/cuda.hpp"
#include "transport/cuda_handles.hpp"

namespace refit::transport {
namespace {

/// Containers of different hosts may have one host name: the boot id tells them apart (NCCL does the same).
std::uint64_t host_hash() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  return combine(hash_name(name.data()), hash_name(boot));
}

int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "the current device");
  return device;
}

/// CUDA's 1000 x major + 10 x minor.
std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

void check_cuda(cudaError_t error, const char* what, SourceLocation where) {
  if (error == cudaSuccess) return;
  fail_runtime("CUDA: {}: {} ({}:{})", what, cudaGetErrorString(error), where.file, where.line);
}

DeviceIdentity device_identity() {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, current_device()), "the device's properties");
  DeviceIdentity identity;
  identity.host = host_hash();
  identity.device = combine(identity.host, hash_name({properties.uuid.bytes, sizeof(properties.uuid.bytes)}));
  return identity;
}

std::string pci_bus_id() {
  std::array<char, 32> text{};
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), current_device()), "the PCI bus id");
  return text.data();
}

std::string cuda_version() {
  int runtime = 0;
  int driver = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "the runtime's version");
  check_cuda(cudaDriverGetVersion(&driver), "the driver's version");
  return fmt::format("{} (driver {})", version_text(runtime), version_text(driver));
}

}  // namespace refit::transport
