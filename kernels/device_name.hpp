#pragma once
// The device of this process, as people and other tools know it.

#include <string>

namespace refit::kernels {

/// Returns PCI id and name of this process's device, "0000:19:00.0 NVIDIA H200"; empty on a host. Errors (unavailable):
/// CUDA's own.
std::string device_name();

}  // namespace refit::kernels
