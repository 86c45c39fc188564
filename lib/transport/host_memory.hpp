#pragma once
// Is there room? Asked before anything is loaded.

#include <cstdint>
#include <string>

#include "transport/communicator.hpp"

namespace refit::transport {

/// Bytes that processes of this host can still allocate: MemAvailable, or less where a cgroup limits it.
std::int64_t available_memory();

/// Checks that the ranks of every host together fit. `bytes`: what this rank is about to allocate; `host`: equal on
/// ranks that share memory. Errors (runtime) on all ranks alike: how much is needed and there, `advice`. Collective
/// over `world`.
void require_memory(Control& world, int host, std::int64_t bytes, const std::string& advice);

}  // namespace refit::transport
