#pragma once
// Compares the outcome of a run with the expectations of its case.

#include <string>

#include "case/setup.hpp"
#include "engine/failure.hpp"
#include "report/result.hpp"

namespace refit::engine {

using cases::Case;
using cases::Setup;

/// Judges a finished run: sets result.status, exit_code and, where something was missed, result.error.
void judge(const Setup& setup, report::Result& result);

/// Judges a plan likewise; only the payload's fraction can be expected of it.
void judge_plan(const Setup& setup, report::Result& result);

/// Judges a failure that ended a run early: returns the exit code, also put into `result`.
int judge_failure(const Case& c, const Failure& failure, report::Result& result);

}  // namespace refit::engine
