#include "kernels/profile.hpp"

#include <Kokkos_Core.hpp>

#include "kernels/backend.hpp"

namespace refit::kernels {

void ProfilePhase::begin(const char* name) {
  end();
  if (!Kokkos::is_initialized()) return;
  Kokkos::Profiling::pushRegion(name);
  backend::push_range(name);
  begun_ = true;
}

void ProfilePhase::end() {
  if (!begun_) return;
  begun_ = false;
  backend::pop_range();
  if (Kokkos::is_initialized()) Kokkos::Profiling::popRegion();
}

}  // namespace refit::kernels
