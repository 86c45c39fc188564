#pragma once
// Tables of items in memory of the execution space.

#include <string>
#include <vector>

#include "kernels/kokkos_compat.hpp"

namespace refit::kernels {

/// Returns a copy of `values` in memory of the execution space.
template <typename T>
Kokkos::View<T*, DeviceMemory> on_device(const std::string& label, const std::vector<T>& values) {
  using Source = Kokkos::View<const T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  Kokkos::View<T*, DeviceMemory> view(Kokkos::ViewAllocateWithoutInitializing(label), values.size());
  Kokkos::deep_copy(view, Source(values.data(), values.size()));
  return view;
}

}  // namespace refit::kernels
