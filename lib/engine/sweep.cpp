#include "engine/sweep.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iostream>
#include <mutex>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "core/clock.hpp"
#include "core/console.hpp"
#include "core/text.hpp"
#include "engine/case_run.hpp"
#include "engine/describe.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/faults.hpp"
#include "engine/launch.hpp"
#include "engine/reporting.hpp"
#include "engine/surroundings.hpp"

namespace refit::engine {
namespace {

using report::label;
using transport::CollectiveError;
using transport::together;

/// What is known of a sweep, shared by the main thread and the supervisor's.
class Ledger {
 public:
  Ledger(const std::vector<SweptCase>& cases, report::Result whole) : whole_(std::move(whole)) {
    for (const SweptCase& one : cases) sweep_.planned.push_back(one.values);
  }

  /// Changes what is common to all cases. For the main thread only.
  template <typename Change>
  void edit(const Change& change) {
    const std::lock_guard lock(mutex_);
    change(whole_);
  }
  /// Says which case runs from now on; both arguments must live until `end`. For the main thread only.
  void begin(const SweptCase& one, const Findings& findings) {
    const std::lock_guard lock(mutex_);
    running_ = &one;
    findings_ = &findings;
  }
  /// Adds the result of a case, which runs no more. For the main thread only.
  void end(const SweptCase& one, report::Result result) {
    const std::lock_guard lock(mutex_);
    running_ = nullptr;
    findings_ = nullptr;
    if (!failed_) sweep_.combinations.push_back({one.values, std::move(result)});
  }

  report::Sweep sweep() const {
    const std::lock_guard lock(mutex_);
    return sweep_;
  }
  /// Returns the whole as it stands, judged.
  report::Result whole() const {
    const std::lock_guard lock(mutex_);
    report::Result result = whole_;
    result.elapsed_seconds = now() - result.started;
    if (!failed_) report::judge(sweep_, result);
    return result;
  }
  /// Makes a failure the end of the case that runs and of the sweep; returns the exit code.
  int fail(const cases::Case& any, const Failure& failure) {
    const std::lock_guard lock(mutex_);
    if (failed_) return whole_.exit_code;
    if (findings_ != nullptr) {
      sweep_.combinations.push_back({running_->values, judge_failed(running_->c, *findings_, failure).first});
      report::judge(sweep_, whole_);
    } else {
      judge_failure(any, failure, whole_);
    }
    failed_ = true;
    return whole_.exit_code;
  }

 private:
  mutable std::mutex mutex_;
  report::Sweep sweep_;
  report::Result whole_;
  bool failed_ = false;  ///< nothing changes any more
  const SweptCase* running_ = nullptr;
  const Findings* findings_ = nullptr;
};

/// Makes the files of a sweep, each with all its cases.
void add_outputs(const cases::OutputSection& output, const Ledger& ledger, Outputs& outputs) {
  outputs.add(output.json, [&](const report::Result& whole) { return report::to_json(whole, ledger.sweep()); });
  outputs.add(output.csv, [&](const report::Result&) { return report::to_csv(ledger.sweep()); });
  outputs.add(output.junit, [&](const report::Result&) { return report::to_junit(ledger.sweep()); });
}

/// Returns the case that needs the most ranks.
const SweptCase& largest(const std::vector<SweptCase>& cases) {
  return *std::ranges::max_element(cases, {}, [](const SweptCase& one) { return one.c.world().size(); });
}

void require_ranks_of_all(const std::vector<SweptCase>& cases, int started) {
  const SweptCase& most = largest(cases);
  const std::int64_t needed = most.c.world().size();
  if (started == needed) return;
  fail_usage(
      "this sweep needs {} ranks, for {} ({} for train and {} for gen{}), but {} were started; start it with: {}",
      needed, label(most.values), most.c.train_ranks(), most.c.gen_ranks(), most.c.run.colocated ? ", colocated" : "",
      started, start_hint(this_launch(), std::to_string(needed)));
}

/// Requires that each case can be set up, so that none is refused when others have run.
void require_all(const std::vector<SweptCase>& cases) {
  for (const SweptCase& one : cases) {
    if (one.waived) continue;
    try {
      faults_of_run(Setup(one.c));
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", label(one.values), error.what()), {error.tensor()});
    }
  }
}

/// Gives freed memory back to the system: glibc keeps that of pieces below its threshold, which grows to 32 MiB, so
/// that a process would hold more with every case.
void give_memory_back() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

/// The main thread's part of one process of a sweep.
class SweepRun {
 public:
  SweepRun(const std::vector<SweptCase>& cases, const std::vector<std::string>& command, JobProcess& process,
           Supervisor& supervisor, Ledger& ledger, Outputs& outputs)
      : cases_(cases),
        command_(command),
        process_(process),
        supervisor_(supervisor),
        progress_(supervisor.progress()),
        ledger_(ledger),
        outputs_(outputs) {}

  void operator()() {
    const cases::Limits limits = cases::limits_of(cases_.front().c);
    process_.begin(limits);
    progress_.begin("setup", limits.phase());
    process_.check(outputs_, [&] {
      require_all(cases_);
      require_ranks_of_all(cases_, process_.size());
    });
    const report::JobInfo job = gather_job(process_.world(), this_launch());
    ledger_.edit([&](report::Result& whole) {
      whole.environment.job = job;
      whole.ranks = process_.size();
    });
    if (process_.is_root()) report::print_sweep_header(std::cout, ledger_.whole(), ledger_.sweep());
    for (std::size_t i = 0; i < cases_.size(); ++i) {
      if (process_.is_root()) spdlog::info("{} of {}: {}", i + 1, cases_.size(), label(cases_[i].values));
      step(cases_[i]);
      if (!process_.is_root()) continue;
      progress_.begin_unprofiled("print", limits.phase());
      const report::Sweep sweep = ledger_.sweep();
      report::print_sweep_row(std::cout, sweep, sweep.combinations.back());
    }
  }

 private:
  /// Runs a case in the ranks that it needs.
  void step(const SweptCase& one) {
    Findings findings(describe(one.c, command_));
    if (one.waived) {
      findings.edit([&](report::Result& result) {
        judge_failure(one.c, {Ending::error, one.waived->kind(), -1, "", one.waived->what(), 0}, result);
      });
      return ledger_.end(one, findings.get());
    }
    const cases::Limits limits = cases::limits_of(one.c);
    progress_.begin("setup", limits.phase());
    transport::Control* ranks = &process_.world();
    std::unique_ptr<transport::Control> part;
    if (const std::int64_t needed = one.c.world().size(); needed < ranks->size()) {
      part = transport::make_part(*ranks, needed);
      ranks = part.get();
    }
    if (ranks != nullptr) {
      ledger_.begin(one, findings);
      run(one, *ranks, findings);
      progress_.begin("finish", limits.phase());
    } else {
      progress_.begin("sleep", 0);  // those that have work have limits
      supervisor_.stand_aside();
    }
    supervisor_.name_tensors({});
    part.reset();
    transport::sleep_until_all_come(process_.world());
    supervisor_.stand_in_line(process_.world());
    ledger_.end(one, findings.get());
    give_memory_back();
  }

  void run(const SweptCase& one, transport::Control& ranks, Findings& findings) {
    CaseRun run(one.c, command_, ranks, supervisor_, findings, nullptr);
    const bool complete = attempt(
        supervisor_,
        [&] {
          together(ranks, [&] { run.set_up(); });
          run.refits();
        },
        [&](const CollectiveError& error) { run.fail_together(error); });
    if (!complete && ranks.rank() == 0)
      spdlog::error("{}: {}", label(one.values), findings.get().error ? findings.get().error->message : "");
    progress_.begin("finish", cases::limits_of(one.c).phase());
    run.release();
    findings.edit([](report::Result& result) { result.elapsed_seconds = now() - result.started; });
  }

  const std::vector<SweptCase>& cases_;
  const std::vector<std::string>& command_;
  JobProcess& process_;
  Supervisor& supervisor_;
  transport::Progress& progress_;
  Ledger& ledger_;
  Outputs& outputs_;
};

/// Reports a failure that not all ranks have seen, for the supervisor; returns its exit code.
int report_end(const cases::Case& any, Ledger& ledger, Board& board, Outputs& outputs, bool is_root,
               const Failure& failure) {
  if (const int before = ledger.whole().exit_code; outputs.begun() && before != 0) {
    say(failure.message);
    return before;
  }
  const int code = ledger.fail(any, failure);
  report::Result whole = ledger.whole();
  return report_failure(whole, code, board, outputs, is_root, failure);
}

}  // namespace

int sweep(const std::vector<SweptCase>& cases, const std::vector<std::string>& command) {
  const cases::Case& first = cases.front().c;
  std::int64_t streams = 0;
  for (const SweptCase& one : cases) streams = std::max(streams, one.c.refit.streams);
  transport::MpiSession::prepare_environment(streams);
  const cases::Limits limits = cases::limits_of(first);
  const Launch& launch = this_launch();
  Ledger ledger(cases, describe(first, command));
  Outputs outputs(first.output.force);
  add_outputs(first.output, ledger, outputs);
  const std::unique_ptr<Board> board = Board::join(launch);
  Supervisor supervisor(
      *board, static_cast<int>(launch.local_rank), static_cast<int>(launch.rank),
      {[&](const Failure& failure) { return report_end(first, ledger, *board, outputs, launch.rank == 0, failure); },
       end_job});
  supervisor.progress().begin_unprofiled("MPI_Init", limits.phase());
  if (launch.rank == 0 && outputs.take_older_away()) board->may_write() = true;
  bool complete = false;
  bool is_root = false;
  {
    JobProcess process(*board, supervisor);
    is_root = process.is_root();
    SweepRun run(cases, command, process, supervisor, ledger, outputs);
    complete = attempt(supervisor, run, [&](const CollectiveError& error) {
      ledger.fail(first, {Ending::error, error.kind(), error.rank(), "", error.what(), 0});
    });
    process.finish(limits);
  }
  if (!has_last_word(supervisor, is_root, limits)) return 0;
  report::Result whole = ledger.whole();
  if (!complete) spdlog::error("{}: {}", whole.exit_code == 0 ? "as expected" : "error", whole.error->message);
  outputs.write(whole);
  supervisor.written();
  if (complete) report::print_sweep_summary(std::cout, whole, ledger.sweep());
  return whole.exit_code;
}

int refuse_sweep(const SweptCase& any, const std::vector<std::string>& command, const Error& mine) {
  const auto [error, rank, speaks] = refuse_together(mine);
  if (!speaks) return 0;
  Ledger ledger({any}, describe(any.c, command));
  ledger.fail(any.c, {Ending::error, error.kind(), rank, "", error.what(), 0});
  Outputs outputs(any.c.output.force);
  add_outputs(any.c.output, ledger, outputs);
  try {
    outputs.check();
  } catch (const Error&) {
    // The first error is the one to report.
  }
  report::Result whole = ledger.whole();
  outputs.write(whole);
  say_error(error.what());
  return whole.exit_code;
}

}  // namespace refit::engine
