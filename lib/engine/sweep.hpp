#pragma once
// `refit run --sweep`: several cases that differ in a few keys, one after the other in the processes of one job.

#include <optional>
#include <string>
#include <vector>

#include "case/case.hpp"
#include "core/error.hpp"
#include "report/sweep.hpp"

namespace refit::engine {

/// A case of a sweep.
struct SweptCase {
  report::SweptValues values;
  cases::Case c;
  std::optional<Error> waived;  ///< what this build lacks for it: it is reported, and not run
};

/// Runs complete, validated cases (at least one), whose outputs are those of the first, as `run` does with one; returns
/// the process's exit code. Each case is a whole run in the first ranks of the job, as many as it needs; the others
/// sleep. What all ranks of a case find wrong ends that case; any other failure ends the job, with the results so far.
/// Collective over all processes of the job, of which there must be as many as the largest case needs.
int sweep(const std::vector<SweptCase>& cases, const std::vector<std::string>& command);

/// Ends a sweep where this process refuses its cases, before MPI, as `refuse` does. `any`: one of the cases.
int refuse_sweep(const SweptCase& any, const std::vector<std::string>& command, const Error& error);

}  // namespace refit::engine
