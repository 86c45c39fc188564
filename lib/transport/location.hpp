#pragma once
// Location of processes: which of them share a host, and which a device.

#include <cstdint>
#include <vector>

#include "transport/bytes.hpp"

namespace refit::transport {

/// Hashes of a process's host and device: equal in two processes exactly if these are on the same host, or use the same
/// device.
struct Location {
  std::uint64_t host = 0;    ///< of host name and boot: hosts of containers may have one name (NCCL does the same)
  std::uint64_t device = 0;  ///< of the host and the device's UUID, or the process where there is no device
};

/// Returns the location of this process.
Location location();

/// Returns every rank's value, by rank. Collective over `control`.
template <typename T>
std::vector<T> gather_all(Control& control, const T& mine) {
  Control::Bytes bytes;
  append(bytes, mine);
  std::vector<T> all;
  for (const Control::Bytes& one : control.gather_all(bytes)) all.push_back(read_all<T>(one).front());
  return all;
}

}  // namespace refit::transport
