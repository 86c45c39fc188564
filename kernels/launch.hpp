#pragma once
// How every kernel is launched: over items, each worked on by one host thread or by one team of device lanes.

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/kernels.hpp"
#include "kernels/kokkos_compat.hpp"
#include "kernels/memory.hpp"

namespace refit::kernels {

/// The type of atomics: Kokkos 3.4 has them for `unsigned long long` on every backend.
using Counter = unsigned long long;

struct ExecutionSpace::Implementation {
  Device device = new_instance();
  // Where kernels put the numbers that they find: kept, since an allocation costs more than most launches.
  mutable DeviceBuffer results;
  mutable SharedBuffer results_on_host;
};

inline constexpr int kLanes = 256;  ///< of a device's team

template <typename Functor>
struct HostItem {
  Functor functor;
  void operator()(std::int64_t item) const { functor(item); }
};

/// Calls functor(item) for every item on a host. Several threads may launch at the same time.
template <typename Functor>
void for_each_item(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor) {
  using Policy = Kokkos::RangePolicy<Device, Kokkos::IndexType<std::int64_t>>;
  if (count == 0) return;
  Kokkos::parallel_for(label, Policy(space.implementation().device, 0, count), HostItem<Functor>{functor});
}

/// Calls functor(member) for every item, member.league_rank(), on a device with the lanes of one team: kLanes threads,
/// or kLanes / width threads of `width` vector lanes. `scratch` is the shared memory of a team in bytes.
template <typename Functor>
void for_each_team(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor,
                   std::int64_t scratch = 0, int width = 1) {
  using Policy = Kokkos::TeamPolicy<Device>;
  if (count == 0) return;
  Policy policy(space.implementation().device, static_cast<int>(count), kLanes / width, width);
  policy.set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(scratch)));
  Kokkos::parallel_for(label, policy, functor);
}

/// A few numbers, 0 at first, where kernels can add to them, and their way back to the host. One at a time of a space.
class Results {
 public:
  Results(const ExecutionSpace& space, std::int64_t count) : space_(space), count_(static_cast<std::size_t>(count)) {
    const auto bytes = static_cast<std::int64_t>(count_ * sizeof(Counter));
    const ExecutionSpace::Implementation& of = space.implementation();
    if (of.results.bytes() < bytes) of.results = DeviceBuffer(bytes);
    if constexpr (kOnHost) {
      std::fill_n(data(), count_, Counter{0});
    } else {
      if (of.results_on_host.bytes() < bytes) of.results_on_host = SharedBuffer(bytes);
      Kokkos::deep_copy(of.device, values(), Counter{0});
    }
  }

  Counter* data() const { return reinterpret_cast<Counter*>(space_.implementation().results.data()); }

  /// Waits for the kernels of the space, then brings the numbers to the host.
  const Counter* wait() const {
    if constexpr (kOnHost) {
      space_.fence();
      return data();
    } else {
      using Host = Kokkos::View<Counter*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
      const ExecutionSpace::Implementation& of = space_.implementation();
      const Host host(reinterpret_cast<Counter*>(of.results_on_host.data()), count_);
      Kokkos::deep_copy(of.device, host, values());
      space_.fence();
      return host.data();
    }
  }

 private:
  using Values = Kokkos::View<Counter*, DeviceMemory, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  Values values() const { return Values(data(), count_); }

  const ExecutionSpace& space_;
  std::size_t count_;
};

}  // namespace refit::kernels
