#pragma once
// run.strict_upstream: cases that NeMo-RL's refit refuses, though refit itself can do them. `seed` is the original pull
// request (2413), `merged` the version that was merged. Rules have the numbers under which they are known, V of the
// gate at setup, L of failures at run time: docs/layouts.md has them all.

#include <string>
#include <vector>

#include "case/case.hpp"
#include "model/model.hpp"

namespace refit::cases {

/// Adds the complaints of the upstream version about a case, whatever its model; none with strict_upstream = off.
void check_upstream(const Case& c, Complaints& complaints);

/// Returns the complaints of the upstream version about the case's model, as sentences; empty with strict_upstream =
/// off.
std::vector<std::string> upstream_violations(const Case& c, const model::Model& model);

}  // namespace refit::cases
