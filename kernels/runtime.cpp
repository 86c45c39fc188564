#include <fmt/format.h>

#include "kernels/launch.hpp"

namespace refit::kernels {

Runtime::Runtime() { start_kokkos(); }
Runtime::~Runtime() { Kokkos::finalize(); }

std::string Runtime::version() {
  return fmt::format("Kokkos {}.{}.{} ({})", KOKKOS_VERSION / 10000, KOKKOS_VERSION / 100 % 100, KOKKOS_VERSION % 100,
                     Device::name());
}

ExecutionSpace::ExecutionSpace() : implementation_(std::make_unique<Implementation>()) {}
ExecutionSpace::~ExecutionSpace() = default;
ExecutionSpace::ExecutionSpace(ExecutionSpace&&) noexcept = default;
ExecutionSpace& ExecutionSpace::operator=(ExecutionSpace&&) noexcept = default;

void ExecutionSpace::fence() const { implementation_->device.fence(); }

}  // namespace refit::kernels
