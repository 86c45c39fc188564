#pragma once
// Flags of copies on hosts: threads wait for a peer's stores, and signal their own to a peer.

#include <thread>

#include "kernels/copy_items.hpp"

namespace refit::kernels {

/// Waits until the item's source may be read.
template <typename Item>
void await_flag(const Item& item, std::uint64_t epoch) {
  if (item.wait == nullptr) return;
  while (__atomic_load_n(item.wait, __ATOMIC_ACQUIRE) < epoch) std::this_thread::yield();
}

/// Notes that the item is stored; the last thread of its signal raises the flag.
template <typename Item>
void raise_flag(const Item& item, const CopyRun& run) {
  if (item.signal < 0) return;
  CopySignal& signal = run.signals[item.signal];
  const std::uint64_t finished = __atomic_add_fetch(&signal.finished, 1, __ATOMIC_ACQ_REL);
  if (finished % signal.items == 0) __atomic_store_n(signal.flag, run.epoch, __ATOMIC_RELEASE);
}

}  // namespace refit::kernels
