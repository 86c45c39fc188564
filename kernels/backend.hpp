#pragma once
// The differences between machines with and without a device, apart from kernels: choosing the device, memory, and
// profilers' ranges. backend_cuda.cpp or backend_host.cpp implements them, whichever fits the Kokkos that refit is
// built with.

#include <cstddef>
#include <cstdint>
#include <string>

namespace refit::kernels::backend {

inline constexpr std::int64_t kAlignment = 64;  ///< least alignment of all memory below

/// Makes device_of(local_rank, local_ranks, devices) the device of this process; returns its number, 0 on hosts.
/// Errors (unavailable): there is no device, no driver, or one that is too old.
int select_device(int local_rank, int local_ranks);

/// Makes the calling thread's current device that of this process, likewise.
int select_current_device();

/// Makes this process's device the calling thread's current one; returns the one that was. 0 on hosts.
int enter_device();
void leave_device(int before);

/// Returns the UUID of this process's device (or MIG instance), as bytes; empty on hosts.
std::string device_uuid();

/// Allocates memory of the execution space, whole allocations, so that another process can open it; null where there is
/// too little.
std::byte* allocate_device(std::int64_t bytes);
void release_device(std::byte* data);

/// Allocates memory that the host and the execution space can address; null where there is too little.
std::byte* allocate_shared(std::int64_t bytes);
void release_shared(std::byte* data);

/// Copies `times` over without a kernel; complete on return. Returns the error, or an empty string.
std::string transfer(const std::byte* source, std::byte* destination, std::int64_t bytes, std::int64_t times);

/// Begins a range that the device's profiler shows, on this thread; ranges nest. Does nothing on hosts.
void push_range(const char* name);
void pop_range();

}  // namespace refit::kernels::backend
