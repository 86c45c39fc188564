#include "transport/location.hpp"

#include <unistd.h>

#include <array>
#include <fstream>
#include <string>

#include "core/hash.hpp"
#include "kernels/kernels.hpp"

namespace refit::transport {
namespace {

std::uint64_t host_hash() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  return combine(hash_name(name.data()), hash_name(boot));
}

}  // namespace

Location location() {
  const std::uint64_t host = host_hash();
  const std::uint64_t device = kernels::Runtime::has_device() ? hash_name(kernels::Runtime::device_uuid())
                                                              : static_cast<std::uint64_t>(getpid());
  return {host, combine(host, device)};
}

}  // namespace refit::transport
