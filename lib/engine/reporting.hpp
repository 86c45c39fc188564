#pragma once
// The ends of a job that `refit run` and a sweep share: who writes what to stderr and into the files.

#include <string>
#include <utility>

#include "case/case.hpp"
#include "engine/board.hpp"
#include "engine/failure.hpp"
#include "engine/findings.hpp"
#include "engine/outputs.hpp"
#include "report/result.hpp"

namespace refit::engine {

/// Writes a failure that the supervisor reports to stderr, and its result to the files; returns the exit code. `code`:
/// of the case that was running, 0 where it expected the failure.
int report_failure(report::Result& result, int code, Board& board, Outputs& outputs, bool is_root,
                   const Failure& failure);

/// Judges a failure that ended a case early: the result, and the exit code of the case. Wrong data that were named
/// before time ran out stay the verdict.
std::pair<report::Result, int> judge_failed(const cases::Case& c, const Findings& findings, const Failure& failure);

/// Ends all processes of the job.
void end_job(int code);

/// Writes a refusal to stderr: each of its lines.
void say_error(const std::string& text);

}  // namespace refit::engine
