#include <fmt/format.h>

#include "kernels/backend.hpp"
#include "kernels/launch.hpp"

namespace refit::kernels {

Runtime::Runtime(int local_rank, int local_ranks) { start_kokkos(backend::select_device(local_rank, local_ranks)); }
Runtime::Runtime(CurrentDevice) { start_kokkos(backend::select_current_device()); }
Runtime::~Runtime() { Kokkos::finalize(); }

std::string Runtime::version() {
  return fmt::format("Kokkos {}.{}.{} ({})", KOKKOS_VERSION / 10000, KOKKOS_VERSION / 100 % 100, KOKKOS_VERSION % 100,
                     Device::name());
}

bool Runtime::has_device() { return !kOnHost; }
std::string Runtime::device_uuid() { return backend::device_uuid(); }

ExecutionSpace::ExecutionSpace(std::int64_t threads) : implementation_(std::make_unique<Implementation>()) {
  REFIT_ASSERT(threads >= 1 && (kOnHost || threads == 1));
  if (threads > 1) implementation_->team = std::make_unique<ThreadTeam>(threads);
}
ExecutionSpace::~ExecutionSpace() = default;
ExecutionSpace::ExecutionSpace(ExecutionSpace&&) noexcept = default;
ExecutionSpace& ExecutionSpace::operator=(ExecutionSpace&&) noexcept = default;

void ExecutionSpace::fence() const { implementation_->device.fence(); }

}  // namespace refit::kernels
