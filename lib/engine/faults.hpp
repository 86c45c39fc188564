#pragma once
// The bugs that a case has injected.

#include "case/setup.hpp"
#include "inject/faults.hpp"

namespace refit::engine {

/// Returns the faults. Errors (usage): an unknown name, two that distort the same layout, one that changes nothing in
/// this case.
inject::Faults faults_of(const cases::Setup& setup);
/// Returns the faults of a run. Errors (usage): also one that would change nothing in it.
inject::Faults faults_of_run(const cases::Setup& setup);

}  // namespace refit::engine
