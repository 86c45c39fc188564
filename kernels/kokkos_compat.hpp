#pragma once
// All that differs between the Kokkos versions refit builds with: 3.4 (Debian, Serial) up to 5.x (CUDA, OpenMP).

#include <Kokkos_Core.hpp>
#include <type_traits>

namespace refit::kernels {

using Device = Kokkos::DefaultExecutionSpace;
using DeviceMemory = Device::memory_space;

/// True where kernels run on the processor that calls them: one worker per item, memcpy, no teams.
inline constexpr bool kOnHost = std::is_same_v<DeviceMemory, Kokkos::HostSpace>;

/// Starts Kokkos on a device, without looking at a command line and without its warnings.
inline void start_kokkos([[maybe_unused]] int device) {
#if KOKKOS_VERSION >= 30700
  Kokkos::InitializationSettings settings;
  settings.set_disable_warnings(true);
  if constexpr (!kOnHost) settings.set_device_id(device);
  Kokkos::initialize(settings);
#else
  Kokkos::InitArguments arguments;
  arguments.disable_warnings = true;
  Kokkos::initialize(arguments);
#endif
}

/// Makes a queue of its own: a stream on a GPU; on a host an instance that does not wait for those of other threads.
inline Device new_instance() {
#if KOKKOS_VERSION >= 40000
  return Kokkos::Experimental::partition_space(Device(), 1)[0];
#else
  return Device();
#endif
}

}  // namespace refit::kernels
