#include <spdlog/spdlog.h>

#include <iostream>
#include <memory>

#include "case/limits.hpp"
#include "core/clock.hpp"
#include "core/console.hpp"
#include "engine/case_run.hpp"
#include "engine/describe.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/findings.hpp"
#include "engine/launch.hpp"
#include "engine/mpi_start.hpp"
#include "engine/outputs.hpp"
#include "engine/reporting.hpp"
#include "engine/supervisor.hpp"
#include "report/table.hpp"

namespace refit::engine {
namespace {

/// Reports a failure that not all ranks have seen, for the supervisor; returns its exit code. The verdict stays any
/// failure that is being written.
int report_end(const Case& c, const Findings& findings, Board& board, Outputs& outputs, bool is_root,
               const Failure& failure) {
  const bool is_verdict = failure.ending == Ending::timeout && findings.verdict();
  const int before = is_verdict ? findings.verdict()->exit_code : findings.copy().exit_code;
  if (outputs.begun() && before != 0) {
    say(failure.message);
    return before;
  }
  auto [result, code] = judge_failed(c, findings, failure);
  return report_failure(result, code, board, outputs, is_root, failure);
}

/// Reports the job's end at rank 0, after MPI has ended; returns the exit code.
int conclude(Supervisor& supervisor, const Findings& findings, Outputs& outputs, bool complete) {
  report::Result result = findings.get();
  result.elapsed_seconds = now() - result.started;
  if (!complete) spdlog::error("{}: {}", result.exit_code == 0 ? "as expected" : "error", result.error->message);
  outputs.write(result);
  supervisor.written();
  if (complete) report::print_summary(std::cout, result);
  return result.exit_code;
}

}  // namespace

int refuse(const Error& error) {
  const Refused refused = refuse_together(error);
  if (!refused.speaks) return 0;
  say_error(refused.error.what());
  return static_cast<int>(refused.error.kind());
}

int refuse(const Case& c, const std::vector<std::string>& command, const Error& mine) {
  const auto [error, rank, speaks] = refuse_together(mine);
  if (!speaks) return 0;
  report::Result result = describe(c, command);
  judge_failure(c, {Ending::error, error.kind(), rank, "", error.what(), 0}, result);
  cases::OutputSection files = c.output;
  files.dump_train = files.dump_gen = "";  // no run, no dumps
  for (std::string* path :
       {&files.json, &files.csv, &files.hdf5, &files.junit, &files.m2n_metrics, &files.trace, &files.timeline})
    if (!input_of(c, *path).empty()) path->clear();
  Outputs outputs(files);
  try {
    outputs.check();
  } catch (const Error&) {
    // The first error is the one to report.
  }
  outputs.write(result);
  if (result.exit_code == 0) {
    print("refit: as expected: {}\n", error.what());
  } else {
    say_error(error.what());
  }
  return result.exit_code;
}

int run(const Case& c, const std::vector<std::string>& command) {
  transport::MpiSession::prepare_environment(c.refit.streams);
  const cases::Limits limits = cases::limits_of(c);
  const Launch& launch = this_launch();
  Findings findings(describe(c, command));
  Outputs outputs(c.output);
  const std::unique_ptr<Board> board = Board::join(launch);
  Supervisor supervisor(
      *board, static_cast<int>(launch.local_rank), static_cast<int>(launch.rank),
      {[&](const Failure& failure) { return report_end(c, findings, *board, outputs, launch.rank == 0, failure); },
       end_job});
  supervisor.progress().begin_unprofiled("MPI_Init", limits.phase());
  if (launch.rank == 0 && outputs.take_older_away()) board->may_write() = true;
  bool complete = false;
  bool is_root = false;
  {
    JobProcess process(*board, supervisor);
    is_root = process.is_root();
    CaseRun run(c, command, process.world(), supervisor, findings, &std::cout);
    complete = attempt(
        supervisor,
        [&] {
          process.begin(limits);
          process.check(outputs, [&] { run.set_up(); });
          run.refits();
        },
        [&](const transport::CollectiveError& error) { run.fail_together(error); });
    process.finish(limits, [&] { run.release(); });
  }
  return has_last_word(supervisor, is_root, limits) ? conclude(supervisor, findings, outputs, complete) : 0;
}

}  // namespace refit::engine
