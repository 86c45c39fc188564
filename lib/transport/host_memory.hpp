#pragma once
// Checks of free memory, made before anything is loaded.

#include <cstdint>
#include <string>

#include "transport/communicator.hpp"

namespace refit::transport {

/// Returns the bytes that processes of this host can still allocate: MemAvailable, or less where a cgroup limits it.
std::int64_t available_memory();

/// Checks that the memory of all ranks of every host fits. `bytes`: the amount that this rank is about to allocate;
/// `host`: equal on ranks that share memory. Errors (runtime) on all ranks alike: the needed and the available amounts,
/// `advice`. Collective over `world`.
void require_memory(Control& world, int host, std::int64_t bytes, const std::string& advice);

}  // namespace refit::transport
