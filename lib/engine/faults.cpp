#include "engine/faults.hpp"

#include "engine/processing.hpp"

namespace refit::engine {
namespace {

/// Runs `work`, and puts the place of the key run.inject before its refusals.
template <typename Work>
auto placed(const cases::Case& c, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    const auto place = c.given.find("run.inject");
    if (error.kind() != ErrorKind::usage || place == c.given.end()) throw;
    fail_usage("{}: {}", place->second, error.what());
  }
}

}  // namespace

inject::Faults faults_of_run(const cases::Setup& setup) {
  const cases::Case& c = setup.c;
  inject::Faults faults = faults_of(setup);
  placed(c, [&] {
    faults.require_effect(
        {setup.model, *setup.train, *setup.gen, setup.split.bulk, setup.split.misc, c.run.colocated,
         cases::how_of(c).row().stores, c.run.update.changes(), c.refit.delta != cases::Delta::off, c.run.refits(),
         c.refit.commit == cases::Commit::stage,
         c.refit.commit == cases::Commit::stage && c.refit.stage_bytes < 0 && c.run.verify == cases::Verify::every,
         c.drill().has_new_life()});
  });
  return faults;
}

inject::Faults faults_of(const cases::Setup& setup) {
  const cases::Case& c = setup.c;
  return placed(c, [&] {
    inject::Faults faults(c.run.inject, c.train->sizes(), c.gen_sizes());
    faults.require_effect(setup.model, {c.engine().has_cache_scales(), setup.derived != nullptr || processes(setup)});
    return faults;
  });
}

}  // namespace refit::engine
