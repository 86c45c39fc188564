#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <tuple>

#include "case/limits.hpp"
#include "core/clock.hpp"
#include "core/console.hpp"
#include "core/files.hpp"
#include "engine/describe.hpp"
#include "engine/device.hpp"
#include "engine/drilled_job.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/faults.hpp"
#include "engine/findings.hpp"
#include "engine/job.hpp"
#include "engine/launch.hpp"
#include "engine/mpi_start.hpp"
#include "engine/outputs.hpp"
#include "engine/supervisor.hpp"
#include "engine/surroundings.hpp"
#include "engine/timeline.hpp"
#include "report/format.hpp"
#include "report/statistics.hpp"
#include "report/table.hpp"
#include "transport/location.hpp"
#include "transport/together.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::Places;
using transport::together;

void log_to_stderr(int rank) {
  auto logger = spdlog::stderr_logger_mt("refit");
  logger->set_pattern(rank == 0 ? "refit: %v" : fmt::format("refit: rank {}: %v", rank));
  spdlog::set_default_logger(logger);
}

void require_ranks(const Case& c, int started) {
  const std::int64_t needed = c.world().size();
  if (started == needed) return;
  fail_usage(
      "this case needs {} ranks, {} for train ({}) and {} for gen ({}){}, but {} were started; start it with: {}",
      needed, c.train_ranks(), to_string(c.train->sizes()), c.gen_ranks(), c.gen_layout(),
      c.run.colocated ? ", colocated" : "", started, start_hint(this_launch(), std::to_string(needed)));
}

/// Requires a core for each thread of this rank.
void require_cores(const Case& c) {
  const std::int64_t cores = kernels::usable_cores();
  if (c.run.threads <= cores) return;
  const std::string threads = std::to_string(c.run.threads);
  fail_usage("run.threads: {} threads for each rank, which may use {} core{}: start it with {}, or with fewer threads",
             threads, cores, cores == 1 ? "" : "s",
             start_hint(this_launch(), std::to_string(c.world().size()),
                        {"--map-by slot:PE=" + threads, "--cpus-per-task=" + threads}));
}

/// Returns the place of every rank of either side: gathered once and known to all ranks, so that any of them can write
/// the result.
std::vector<report::RankInfo> gather_ranks(transport::Control& world, const Setup& setup, const Places& places) {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  struct Process {
    std::int64_t pid;
    char host[256];
  } mine{getpid(), {}};
  std::copy(std::begin(host), std::end(host), std::begin(mine.host));
  const std::vector<Process> all = transport::gather_all(world, mine);
  std::vector<report::RankInfo> ranks;
  const WorldMap map = setup.c.world();
  for (const auto& [side, layout, group] :
       {std::tuple(Side::source, setup.train.get(), "train"), std::tuple(Side::destination, setup.gen.get(), "gen")}) {
    for (std::int32_t r = 0; r < layout->ranks(); ++r) {
      const std::int32_t world_rank = map.world_rank(side, Rank{r});
      const Process& process = all[static_cast<std::size_t>(world_rank)];
      ranks.push_back({world_rank, group, process.pid, process.host,
                       kernels::Runtime::has_device() ? fmt::format("cuda{}", places.local_device(world_rank)) : "cpu",
                       parse_coordinates(layout->coordinates(Rank{r}))});
    }
  }
  return ranks;
}

void add(const verify::KlSummary& kl, report::Kl& worst) {
  worst.mean = std::max(worst.mean, kl.mean);
  if (kl.max > worst.max) {
    worst.max = kl.max;
    worst.tensor = kl.tensor;
  }
  worst.not_finite = std::max(worst.not_finite, kl.not_finite);
}

/// Adds the counts of a verdict to the worst so far: of an engine, or of all.
template <typename Total>
void add(const verify::Verdict& verdict, Total& total) {
  total.tensors = std::max(total.tensors, verdict.tensors);
  total.elements = std::max(total.elements, verdict.elements);
  total.tensors_wrong = std::max(total.tensors_wrong, verdict.tensors_wrong);
  total.elements_wrong = std::max(total.elements_wrong, verdict.elements_wrong);
}

/// Adds the overflows of a refit to the worst so far.
void add_overflows(const verify::StepResult& step, const Setup& setup, report::Verification& total) {
  std::int64_t elements = 0;
  for (const verify::Overflow& overflow : step.overflows) {
    elements += overflow.elements;
    const model::Tensor& tensor = setup.model[overflow.tensor];
    auto entry = std::ranges::find(total.overflows, tensor.name, &report::Overflow::tensor);
    if (entry == total.overflows.end()) entry = total.overflows.insert(entry, report::Overflow{});
    if (overflow.elements <= entry->elements) continue;
    const Extents index = unravel(overflow.first_index, tensor.file_shape());
    *entry = {tensor.name,
              std::string(name(setup.gen->format(tensor)->dtype)),
              overflow.elements,
              {index.begin(), index.end()},
              step.step};
  }
  total.elements_overflowed = std::max(total.elements_overflowed, elements);
}

/// Adds one verified refit to the report.
void add(const verify::StepResult& step, const Setup& setup, report::Refit& refit, report::Result& result) {
  refit.elements_wrong = step.elements_wrong;
  refit.counted = step.tensors_not_counted == 0;
  refit.kl_max = step.kl.max;
  for (const verify::Verdict& engine : step.engines) {
    const bool is_proved = engine.tensors > 0;
    refit.engine_elements_wrong.push_back(is_proved ? std::optional(engine.elements_wrong) : std::nullopt);
    refit.engine_kl_max.push_back(is_proved ? std::optional(engine.kl.max) : std::nullopt);
  }
  if (!result.verification) result.verification.emplace();
  report::Verification& total = *result.verification;
  const bool first_wrong = total.wrong.empty();
  ++total.refits;
  add(step, total);
  for (std::size_t e = 0; e < step.engines.size(); ++e) {
    if (step.engines[e].tensors == 0) continue;
    std::optional<report::EngineProof>& proof = result.engines[e].proof;
    if (!proof) proof.emplace();
    add(step.engines[e], *proof);
    add(step.engines[e].kl, proof->kl);
  }
  total.tensors_not_counted = std::max(total.tensors_not_counted, step.tensors_not_counted);
  total.fingerprint_train = hexadecimal(step.fingerprint_train);
  total.fingerprint_gen = hexadecimal(step.fingerprint_gen);
  if (!total.kl) total.kl.emplace();
  add(step.kl, *total.kl);
  add_overflows(step, setup, total);
  for (const verify::WrongTensor& wrong : step.wrong) {
    if (!first_wrong) break;
    report::WrongTensor entry{wrong.tensor, to_int(wrong.gen_rank), wrong.elements_wrong, {}, wrong.counted};
    if (wrong.first_index >= 0) entry.first_index = {wrong.first_index};
    if (const model::Tensor* tensor = setup.model.find(wrong.tensor); tensor != nullptr && wrong.first_index >= 0) {
      const Extents index = unravel(wrong.first_index, tensor->file_shape());
      entry.first_index.assign(index.begin(), index.end());
    }
    total.wrong.push_back(std::move(entry));
  }
  for (const verify::TrainDisagreement& odd : step.train_disagreements) {
    const std::int64_t rank = to_int(odd.train_rank);
    const bool known = std::any_of(total.wrong_replicas.begin(), total.wrong_replicas.end(), [&](const auto& earlier) {
      return earlier.tensor == odd.tensor && earlier.train_rank == rank;
    });
    if (known) continue;
    total.wrong_replicas.push_back({odd.tensor, rank, refit.number});
    result.notes.push_back(fmt::format("refit {}: train rank {} holds other bits of {} {} than its replicas",
                                       refit.number, rank, odd.tensor, to_string(odd.box)));
  }
}

/// Takes over what has become known of engines, with the notes from number `first` on.
void take(const report::Result& known, std::size_t first, report::Result& all) {
  all.wire = known.wire;
  all.memory = known.memory;
  all.schedule = known.schedule;
  all.delta = known.delta;
  all.load = known.load;
  all.prepare = known.prepare;
  for (std::size_t e = 0; e < all.engines.size(); ++e) all.engines[e].bytes = known.engines[e].bytes;
  all.notes.insert(all.notes.end(), known.notes.begin() + static_cast<std::ptrdiff_t>(first), known.notes.end());
}

/// The main thread's part of one process of `refit run`, from MPI_Init to MPI_Finalize.
class Run {
 public:
  Run(const Case& c, const std::vector<std::string>& command, Board& board, Supervisor& supervisor, Findings& findings,
      Outputs& outputs)
      : case_(c),
        command_(command),
        board_(board),
        supervisor_(supervisor),
        progress_(supervisor.progress()),
        limits_(cases::limits_of(c)),
        findings_(findings),
        outputs_(outputs),
        start_(board, this_launch()),
        session_(&progress_) {
    start_.returned(session_.size());
    world_ = transport::make_mpi_control(&progress_);
    supervisor_.connect(*world_);
    log_to_stderr(session_.rank());
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  bool is_root() const { return session_.rank() == 0; }

  /// Returns true where the job is complete; false where all ranks failed alike, which is in the findings.
  bool operator()() {
    try {
      progress_.begin("setup", limits_.phase());
      require_no_refusal(*world_, nullptr);
      start_device(runtime_, session_, *world_, progress_, limits_);
      space_.emplace(case_.run.threads);
      progress_.begin("setup", limits_.phase());
      together(*world_, [&] {
        if (is_root()) outputs_.check();
        setup_ = std::make_shared<Setup>(case_);
        faults_ = faults_of_run(*setup_);
        require_ranks(case_, session_.size());
        require_cores(case_);
        if (is_root()) outputs_.remove_older();
      });
      // Other hosts may have folders of the same names of their own; where they are the same, rank 0 has been there.
      const bool is_first_elsewhere = session_.node_rank() == 0 && !is_root();
      together(*world_, [&] {
        if (!is_first_elsewhere) return;
        outputs_.check_folders();
        outputs_.remove_older_dumps();
      });
      board_.may_write() = true;
      refits();
      return true;
    } catch (const CollectiveError& error) {
      fail_together(error);
      return false;
    } catch (const Error& error) {
      supervisor_.fail(error.kind(), error.what());
    } catch (const std::bad_alloc&) {
      supervisor_.fail(ErrorKind::runtime, "out of memory");
    } catch (const std::exception& error) {
      supervisor_.fail(ErrorKind::runtime, error.what());
    }
  }

  /// Releases everything except MPI and Kokkos, which the destructor ends. Collective: a rank that ends MPI while
  /// another one hangs can end the job only by its own end, which launchers do not like.
  void finish() {
    progress_.begin("finish", limits_.phase());
    job_.reset();
    world_->barrier();
    progress_.begin_unprofiled("MPI_Finalize", limits_.phase());
  }

 private:
  const report::Result& result() const { return findings_.get(); }

  void refits() {
    report::Result known = describe(*setup_, command_);
    for (const std::string& note : known.notes) {
      if (is_root()) spdlog::warn("{}", note);
    }
    places_ = places_of(*world_);
    known.environment.ranks = gather_ranks(*world_, *setup_, places_);
    known.environment.job = gather_job(*world_, this_launch());
    findings_.edit([&](report::Result& all) { all = known; });
    require_ranks_per_device();
    if (is_root()) report::print_header(std::cout, known);
    supervisor_.name_tensors(
        [setup = setup_](std::int32_t index) { return setup->model.tensors.at(static_cast<std::size_t>(index)).name; });
    if (case_.run.drill.empty()) {
      job_ = std::make_unique<Job>(*world_, *space_, *setup_, faults_, places_, progress_);
    } else {
      job_ = std::make_unique<DrilledJob>(*world_, *space_, *setup_, faults_, progress_);
    }
    Work& job = *job_;
    job.prepare(known);
    findings_.edit([&](report::Result& all) { all = known; });
    if (is_root()) report::print_step_heading(std::cout, known);
    const std::int64_t last = case_.run.refits();
    for (std::int64_t number = 1; number <= last; ++number) {
      const std::size_t told = known.notes.size();
      job.change_engines(number, known);
      findings_.edit([&](report::Result& all) { take(known, told, all); });
      if (number == last && traces()) start_trace();
      report::Refit refit = job.refit(number);
      const bool verifies =
          case_.run.verify == cases::Verify::every || (case_.run.verify == cases::Verify::last && number == last);
      const bool proves_first = job.proves_before_flip();
      std::optional<verify::StepResult> step;  // rank 0 keeps it
      report::Result found;                    // the step's notes
      if (!proves_first) job.commit(refit);
      if (verifies) {
        step = job.verify(number, found, [&](const verify::StepResult& wrong) { name_wrong(wrong); });
        findings_.forget_verdict();
        if (step->tensors == 0) step.reset();  // no engine was there
        refit.failed_proof = step && !step->ok();
        if (step && step->ok()) refit.version.weights = hexadecimal(step->fingerprint_gen);
      }
      // Weights that are known to be wrong are given up.
      if (proves_first && (!step || step->ok())) job.commit(refit);
      if (trace_) gather_trace(number);
      if (!is_root()) continue;
      findings_.edit([&](report::Result& all) {
        if (step) add(*step, *setup_, refit, all);
        std::ranges::move(found.notes, std::back_inserter(all.notes));
        for (std::size_t e = 0; e < all.engines.size(); ++e) {
          if (!refit.engines.empty()) {
            all.engines[e].version = refit.engines[e].version;
          } else if (refit.is_committed) {
            all.engines[e].version = refit.version.number;
          }
        }
        all.refits.push_back(std::move(refit));
      });
      progress_.begin_unprofiled("print", limits_.phase());
      report::print_step(std::cout, result(), result().refits.back());
    }
    if (result().m2n) {
      const std::int64_t bytes = job.library_bytes();
      findings_.edit([&](report::Result& all) { all.m2n->library_bytes_max = bytes; });
    }
    job.dump();
    job.measure_again(known);
    if (!is_root()) return;
    findings_.edit([&](report::Result& all) {
      all.rates = known.rates;
      all.bound = known.bound;
      if (const auto sync = report::summarise(report::weight_sync_samples(all));
          sync && all.bound && all.bound->seconds)
        all.efficiency = *all.bound->seconds / sync->median;
      judge(*setup_, all);
    });
  }

  bool traces() const { return !case_.output.trace.empty() || !case_.output.timeline.empty(); }

  void start_trace() {
    trace_.emplace(most_steps(world_->size()));
    progress_.set_trace(&*trace_);
  }

  /// Collective.
  void gather_trace(std::int64_t number) {
    progress_.set_trace(nullptr);
    progress_.begin("gather the timeline", limits_.phase());
    std::shared_ptr<const report::Timeline> timeline =
        gather_timeline(*world_, *trace_, setup_->model, result().environment.ranks, number);
    trace_.reset();
    findings_.edit([&](report::Result& all) { all.timeline = std::move(timeline); });
  }

  /// Makes the wrong tensors the verdict from now on, even if counting their elements fails.
  void name_wrong(const verify::StepResult& wrong) {
    report::Result verdict = result();
    report::Refit refit;
    refit.number = wrong.step;
    add(wrong, *setup_, refit, verdict);
    judge(*setup_, verdict);
    findings_.set_verdict(std::move(verdict));
    if (!is_root()) return;
    // The log names as many wrong tensors of the first wrong refit as fit on a screen, and one of later refits.
    const bool is_first = !result().verification || result().verification->wrong.empty();
    const std::size_t shown = std::min<std::size_t>(wrong.wrong.size(), is_first ? 10 : 1);
    for (std::size_t i = 0; i < shown; ++i) {
      spdlog::error("refit {}: {} is wrong on {}", wrong.step, wrong.wrong[i].tensor,
                    report::gen_rank_text(result().engines, to_int(wrong.wrong[i].gen_rank)));
    }
    if (wrong.wrong.size() > shown) {
      spdlog::error("refit {}: and {} more; {} tensors are wrong in all", wrong.step, wrong.wrong.size() - shown,
                    wrong.tensors_wrong);
    }
  }

  /// Records an error that all ranks threw in step: rank 0 will report it once MPI has ended in good order.
  void fail_together(const CollectiveError& error) {
    const std::string phase = job_ ? transport::phase_of(progress_.where()) : "";
    findings_.edit([&](report::Result& all) {
      judge_failure(case_, {Ending::error, error.kind(), error.rank(), phase, error.what(), 0}, all);
    });
  }

  /// Requires that the device with the most ranks has as many as the case says, where it says so.
  void require_ranks_per_device() const {
    const std::int64_t wanted = case_.run.ranks_per_device;
    if (wanted == 0) return;
    std::map<std::pair<std::string, std::string>, std::set<std::int64_t>> ranks;
    for (const report::RankInfo& rank : result().environment.ranks) ranks[{rank.host, rank.device}].insert(rank.rank);
    const auto most = std::max_element(ranks.begin(), ranks.end(),
                                       [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
    const std::int64_t found = std::ssize(most->second);
    if (found == wanted) return;
    throw CollectiveError(ErrorKind::usage, fmt::format("run.ranks_per_device: {} ranks share {} of {}, not {}", found,
                                                        most->first.second, most->first.first, wanted));
  }

  const Case& case_;
  const std::vector<std::string>& command_;
  Board& board_;
  Supervisor& supervisor_;
  transport::Progress& progress_;
  const cases::Limits limits_;
  Findings& findings_;
  Outputs& outputs_;
  MpiStart start_;
  transport::MpiSession session_;
  std::optional<kernels::Runtime> runtime_;
  std::optional<kernels::ExecutionSpace> space_;
  std::unique_ptr<transport::Control> world_;
  std::shared_ptr<Setup> setup_;  ///< shared with the supervisor, which names tensors
  inject::Faults faults_;
  Places places_;
  std::unique_ptr<Work> job_;
  std::optional<transport::Trace> trace_;  ///< of the last refit
};

/// Takes older results away before MPI starts, which may hang or be ended, and before an earlier failure is reported.
/// Refusals are reported by the setup, when all ranks can hear them. A result that is younger than this process belongs
/// to this job: the process may have been stopped at its start and go on when the others have ended.
void take_older_away(Outputs& outputs, Board& board) {
  try {
    outputs.check();
    outputs.remove_older_than_this_process();
    board.may_write() = true;
  } catch (const Error&) {
    // The setup checks again.
  }
}

/// Reports a failure that not all ranks have seen, for the supervisor; returns its exit code. The verdict stays wrong
/// data that were named before time ran out, or any failure that is being written.
int report_failure(const Case& c, const Findings& findings, Board& board, Outputs& outputs, bool is_root,
                   const Failure& failure) {
  std::optional<report::Result> verdict;
  if (failure.ending == Ending::timeout) verdict = findings.verdict();
  report::Result result = verdict ? *std::move(verdict) : findings.copy();
  if (outputs.begun() && result.exit_code != 0) {
    say(failure.message);
    return result.exit_code;
  }
  const int code = verdict ? result.exit_code : judge_failure(c, failure, result);
  // Messages about a rank by other ranks name the rank themselves.
  const bool own = failure.ending == Ending::error || failure.ending == Ending::interruption;
  say(fmt::format("{}{}{}", own ? fmt::format("rank {}: ", failure.rank) : "", code == 0 ? "as expected: " : "",
                  failure.message));
  if (!board.may_write()) take_older_away(outputs, board);
  if (!board.may_write()) return code;
  outputs.assume_checked();
  if (!is_root) outputs.leave_written();
  outputs.write(result);
  return result.exit_code;
}

void end_job(int code) {
  remove_temporaries();
  transport::MpiSession::abort(code);
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

/// Reports a refusal: each of its lines.
void say_error(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) print_error("refit: error: {}\n", line);
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
      {[&](const Failure& failure) { return report_failure(c, findings, *board, outputs, launch.rank == 0, failure); },
       end_job});
  supervisor.progress().begin_unprofiled("MPI_Init", limits.phase());
  if (launch.rank == 0) take_older_away(outputs, *board);
  bool complete = false;
  bool is_root = false;
  {
    Run run(c, command, *board, supervisor, findings, outputs);
    is_root = run.is_root();
    complete = run();
    run.finish();
  }
  return has_last_word(supervisor, is_root, limits) ? conclude(supervisor, findings, outputs, complete) : 0;
}

}  // namespace refit::engine
