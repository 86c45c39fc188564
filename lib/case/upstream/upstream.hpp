#pragma once
// run.strict_upstream: what NeMo-RL's refit refuses, though refit itself can do it. `seed` is the original pull request
// (2413), `merged` the version that was merged. Rules have the numbers under which they are known, V of the gate at
// setup, L of failures at run time: docs/layouts.md has them all.

#include <string>
#include <vector>

#include "case/case.hpp"
#include "model/model.hpp"

namespace refit::cases {

/// What the upstream version refuses of a case, whatever its model; nothing with strict_upstream = off.
void check_upstream(const Case& c, Complaints& complaints);

/// What of the case's model the upstream version refuses, as sentences; empty with strict_upstream = off.
std::vector<std::string> upstream_violations(const Case& c, const model::Model& model);

/// A refusal; where it has numbers of rules, with the page that explains them.
std::string with_reference(std::string text);

}  // namespace refit::cases
