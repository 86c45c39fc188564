#pragma once
// The results of several engines, each proved by itself, as one.

#include <vector>

#include "verify/result.hpp"

namespace refit::verify {

/// Returns the results of engines 0, 1, ... on one refit as one; `tensors`: of which an engine stores a piece. The gen
/// ranks of what is wrong are those of the whole side. An engine without tensors was not proved.
StepResult join_engines(const std::vector<StepResult>& engines, std::int64_t tensors);

}  // namespace refit::verify
