#pragma once
// How every kernel is launched: over items, each worked on by one host thread or by one team of device lanes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/kernels.hpp"
#include "kernels/kokkos_compat.hpp"
#include "kernels/memory.hpp"
#include "kernels/thread_team.hpp"

namespace refit::kernels {

/// The type of atomics: Kokkos 3.4 has them for `unsigned long long` on every backend.
using Counter = unsigned long long;

struct ExecutionSpace::Implementation {
  Device device = new_instance();
  std::unique_ptr<ThreadTeam> team;  ///< null: the calling thread alone
  // Memory for the numbers that kernels find. It is kept, since an allocation costs more than most launches.
  mutable DeviceBuffer results;
  mutable SharedBuffer results_on_host;
};

inline constexpr int kLanes = 256;  ///< lanes of a device's team

template <typename Functor>
struct HostItem {
  Functor functor;
  void operator()(std::int64_t item) const { functor(item); }
};

/// All items by a team's threads, as one item of Kokkos.
template <typename Functor>
struct TeamItems {
  ThreadTeam* team;
  std::int64_t count;
  Functor functor;
  void operator()(std::int64_t) const {
    team->run(
        count, [](const void* of, std::int64_t item) { (*static_cast<const Functor*>(of))(item); }, &functor);
  }
};

/// Calls functor(item) for every item on a host: in order, or by the threads of the space's team, each of which takes
/// the next one. Several threads may launch at the same time, each on its own space.
template <typename Functor>
void for_each_item(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor) {
  using Policy = Kokkos::RangePolicy<Device, Kokkos::IndexType<std::int64_t>>;
  if (count == 0) return;
  const ExecutionSpace::Implementation& of = space.implementation();
  if (of.team != nullptr && count > 1) {
    Kokkos::parallel_for(label, Policy(of.device, 0, 1), TeamItems<Functor>{of.team.get(), count, functor});
  } else {
    Kokkos::parallel_for(label, Policy(of.device, 0, count), HostItem<Functor>{functor});
  }
}

/// Calls functor(member) for every item, member.league_rank(), on a device with the lanes of one team: kLanes threads,
/// or kLanes / width threads of `width` vector lanes. `scratch` is the shared memory of a team in bytes; the registers
/// are bounded so that a multiprocessor holds `teams`.
template <unsigned teams = 1, typename Functor>
void for_each_team(const ExecutionSpace& space, const std::string& label, std::int64_t count, const Functor& functor,
                   std::int64_t scratch = 0, int width = 1) {
  using Policy = Kokkos::TeamPolicy<Device, Kokkos::LaunchBounds<std::uint32_t{kLanes}, teams>>;
  if (count == 0) return;
  Policy policy(space.implementation().device, static_cast<int>(count), kLanes / width, width);
  policy.set_scratch_size(0, Kokkos::PerTeam(static_cast<int>(scratch)));
  Kokkos::parallel_for(label, policy, functor);
}

/// A few numbers, 0 at first, where kernels can add to them, and their way back to the host; and a table that the
/// kernels read, aligned to 8 bytes. A space has at most one at a time.
class Results {
 public:
  Results(const ExecutionSpace& space, std::int64_t count, std::span<const std::byte> table = {})
      : space_(space), count_(static_cast<std::size_t>(count)), table_(table.data()) {
    const std::size_t numbers = count_ * sizeof(Counter);
    const auto bytes = static_cast<std::int64_t>(numbers + (kOnHost ? 0 : table.size()));
    const ExecutionSpace::Implementation& of = space.implementation();
    if (of.results.bytes() < bytes) of.results = DeviceBuffer(bytes);
    if constexpr (kOnHost) {
      std::fill_n(data(), count_, Counter{0});
    } else {
      if (of.results_on_host.bytes() < bytes) of.results_on_host = SharedBuffer(bytes);
      std::byte* host = of.results_on_host.data();
      std::fill_n(host, numbers, std::byte{0});
      std::copy(table.begin(), table.end(), host + numbers);
      table_ = of.results.data() + numbers;
      Kokkos::deep_copy(of.device, Bytes(of.results.data(), static_cast<std::size_t>(bytes)),
                        HostBytes(host, static_cast<std::size_t>(bytes)));
    }
  }

  Counter* data() const { return reinterpret_cast<Counter*>(space_.implementation().results.data()); }
  const std::byte* table() const { return table_; }

  /// Waits for the kernels of the space, then brings the numbers to the host.
  const Counter* wait() const {
    if constexpr (kOnHost) {
      space_.fence();
      return data();
    } else {
      const ExecutionSpace::Implementation& of = space_.implementation();
      const std::size_t bytes = count_ * sizeof(Counter);
      const HostBytes host(of.results_on_host.data(), bytes);
      Kokkos::deep_copy(of.device, host, Bytes(of.results.data(), bytes));
      space_.fence();
      return reinterpret_cast<const Counter*>(host.data());
    }
  }

 private:
  using Bytes = Kokkos::View<std::byte*, DeviceMemory, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using HostBytes = Kokkos::View<std::byte*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  const ExecutionSpace& space_;
  std::size_t count_;
  const std::byte* table_;
};

}  // namespace refit::kernels
