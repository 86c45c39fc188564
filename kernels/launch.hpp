#pragma once
// How every kernel is launched: over items, each worked on by one host thread or by one team of device lanes.

#include <cstdint>
#include <string>

#include "kernels/kernels.hpp"
#include "kernels/kokkos_compat.hpp"

namespace refit::kernels {

struct ExecutionSpace::Implementation {
  Device device = new_instance();
};

/// The type of atomics: Kokkos 3.4 has them for `unsigned long long` on every backend.
using Counter = unsigned long long;

template <typename Functor>
struct HostItem {
  Functor functor;
  void operator()(std::int64_t item) const { functor(item, 0, 1); }
};

template <typename Functor>
struct TeamItem {
  Functor functor;
  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    functor(member.league_rank(), member.team_rank(), member.team_size());
  }
};

/// Calls functor(item, lane, lanes) for every item. Lanes share an item without synchronisation: each works on the
/// parts with index % lanes == lane. A host has one lane per item, and several threads may launch at the same time.
template <typename Functor>
void for_each_item(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor) {
  if (count == 0) return;
  const Device& device = space.implementation().device;
  if constexpr (kOnHost) {
    using Policy = Kokkos::RangePolicy<Device, Kokkos::IndexType<std::int64_t>>;
    Kokkos::parallel_for(label, Policy(device, 0, count), HostItem<Functor>{functor});
  } else {
    constexpr int kLanes = 256;
    using Policy = Kokkos::TeamPolicy<Device>;
    Kokkos::parallel_for(label, Policy(device, static_cast<int>(count), kLanes), TeamItem<Functor>{functor});
  }
}

/// A few numbers where kernels can add to them, and their way back to the host.
template <typename T>
class Results {
 public:
  explicit Results(std::int64_t count)
      : values_("refit::results", static_cast<std::size_t>(count)), host_(Kokkos::create_mirror_view(values_)) {}
  T* data() const { return values_.data(); }
  T* host() const { return host_.data(); }
  void to_device() { Kokkos::deep_copy(values_, host_); }
  /// Waits for the kernels of `space`, then brings the numbers to the host.
  const T* wait(const ExecutionSpace& space) const {
    space.fence();
    Kokkos::deep_copy(host_, values_);
    return host_.data();
  }

 private:
  Kokkos::View<T*, DeviceMemory> values_;
  typename Kokkos::View<T*, DeviceMemory>::HostMirror host_;
};

}  // namespace refit::kernels
