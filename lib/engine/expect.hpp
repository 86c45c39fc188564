#pragma once
// What a case expects, held against what happened.

#include <string>

#include "case/setup.hpp"
#include "engine/failure.hpp"
#include "report/result.hpp"

namespace refit::engine {

using cases::Case;
using cases::Setup;

/// Judges a finished run: sets result.status, exit_code and, where something was missed, result.error.
void judge(const Setup& setup, report::Result& result);

/// The same for a plan, of which only the payload's fraction can be expected.
void judge_plan(const Setup& setup, report::Result& result);

/// Judges what ended a run before its end: the exit code to end with, also put into `result`.
int judge_failure(const Case& c, const Failure& failure, report::Result& result);

}  // namespace refit::engine
