#pragma once
// run.strict_upstream: what NeMo-RL's refit refuses, though refit itself can do it. `seed` is the original pull request
// (2413), `merged` the version that was merged. Rules have the numbers under which they are known: V of the gate at
// setup, L of failures at run time.
//
// The rules that a case alone decides are in `violations(const Case&)`; these look at the model too.

#include <string>
#include <vector>

#include "engine/case.hpp"
#include "model/model.hpp"

namespace refit::engine {

/// What of the case's model the upstream version refuses, as sentences; empty with strict_upstream = off.
std::vector<std::string> upstream_violations(const Case& c, const model::Model& model);

}  // namespace refit::engine
