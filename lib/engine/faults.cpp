#include "engine/faults.hpp"

namespace refit::engine {

inject::Faults faults_of(const cases::Setup& setup) {
  const cases::Case& c = setup.c;
  inject::Faults faults(c.run.inject, c.train->sizes(), c.engine().sizes());
  faults.require_effect(setup.model, c.engine().has_cache_scales());
  return faults;
}

}  // namespace refit::engine
