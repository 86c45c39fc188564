#pragma once
// Which physical device each rank uses; private to the CUDA and NCCL implementations.

#include <cstdint>
#include <string>
#include <vector>

#include "transport/bytes.hpp"

namespace refit::transport {

/// The same in two processes exactly if they use the same device of the same host.
struct DeviceIdentity {
  std::uint64_t host = 0;    ///< hash of host name and boot
  std::uint64_t device = 0;  ///< hash of host and the device's (or MIG instance's) UUID
};

/// Of this process's current device.
DeviceIdentity device_identity();

/// Of the current device, e.g. "0000:3B:00.0".
std::string pci_bus_id();

/// Every rank's value, by rank. Collective over `control`.
template <typename T>
std::vector<T> gather_all(Control& control, const T& mine) {
  Control::Bytes bytes;
  append(bytes, mine);
  std::vector<T> all;
  for (const Control::Bytes& one : control.exchange(std::vector(static_cast<std::size_t>(control.size()), bytes)))
    all.push_back(read_all<T>(one).front());
  return all;
}

}  // namespace refit::transport
