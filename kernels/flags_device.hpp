#pragma once
// Flags of copies on devices: teams wait for a peer's stores, and signal their own to a peer.
//
// A peer may be another GPU: fences are of the whole system. A fence also drops what a multiprocessor has in its own
// cache, so that the lanes behind the barrier read what the peer has stored.

#include "kernels/copy_items.hpp"
#include "kernels/kokkos_compat.hpp"

namespace refit::kernels {

KOKKOS_FORCEINLINE_FUNCTION void system_fence() {
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
  __threadfence_system();
#endif
}

/// Makes the lanes of a team wait until the item's source may be read.
template <typename Item, typename Member>
KOKKOS_FORCEINLINE_FUNCTION void await_flag(const Item& item, std::uint64_t epoch, const Member& member) {
  if (item.wait == nullptr) return;
  if (member.team_rank() == 0) {
    while (*static_cast<const volatile std::uint64_t*>(item.wait) < epoch) {
    }
    system_fence();
  }
  member.team_barrier();
}

/// Notes that the team has stored the item; the last team of its signal raises the flag.
template <typename Item, typename Member>
KOKKOS_FORCEINLINE_FUNCTION void raise_flag(const Item& item, const CopyRun& run, const Member& member) {
  if (item.signal < 0) return;
  member.team_barrier();
  if (member.team_rank() != 0) return;
  CopySignal& signal = run.signals[item.signal];
  system_fence();
  if ((Kokkos::atomic_fetch_add(&signal.finished, decltype(signal.finished){1}) + 1) % signal.items != 0) return;
  system_fence();
  *static_cast<volatile std::uint64_t*>(signal.flag) = run.epoch;
}

}  // namespace refit::kernels
