#include "kernels/profile.hpp"

#include <Kokkos_Core.hpp>

#include "kernels/backend.hpp"

namespace refit::kernels {

void ProfilePhase::begin(const char* name) {
  end();
  Kokkos::Profiling::pushRegion(name);
  backend::push_range(name);
  begun_ = true;
}

void ProfilePhase::end() {
  if (!begun_) return;
  backend::pop_range();
  Kokkos::Profiling::popRegion();
}

}  // namespace refit::kernels
