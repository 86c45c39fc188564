#include "engine/case_run.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "engine/describe.hpp"
#include "engine/device.hpp"
#include "engine/drilled_job.hpp"
#include "engine/expect.hpp"
#include "engine/faults.hpp"
#include "engine/launch.hpp"
#include "engine/surroundings.hpp"
#include "engine/timeline.hpp"
#include "report/format.hpp"
#include "report/statistics.hpp"
#include "report/table.hpp"
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

}  // namespace

JobProcess::JobProcess(Board& board, Supervisor& supervisor)
    : board_(board), progress_(supervisor.progress()), start_(board, this_launch()), session_(&progress_) {
  start_.returned(session_.size());
  world_ = transport::make_mpi_control(&progress_);
  supervisor.connect(*world_);
  log_to_stderr(session_.rank());
}

void JobProcess::begin(const cases::Limits& limits) {
  progress_.begin("setup", limits.phase());
  require_no_refusal(*world_, nullptr);
  start_device(runtime_, session_, *world_, progress_, limits);
}

void JobProcess::check(Outputs& outputs, const std::function<void()>& also) {
  together(*world_, [&] {
    if (is_root()) outputs.check();
    also();
    if (is_root()) outputs.remove_older();
  });
  // Other hosts may have folders of the same names of their own; where they are the same, rank 0 has been there.
  const bool is_first_elsewhere = session_.node_rank() == 0 && !is_root();
  together(*world_, [&] {
    if (!is_first_elsewhere) return;
    outputs.check_folders();
    outputs.remove_older_dumps();
  });
  board_.may_write() = true;
}

void JobProcess::finish(const cases::Limits& limits, const std::function<void()>& release) {
  progress_.begin("finish", limits.phase());
  release();
  world_->barrier();
  progress_.begin_unprofiled("MPI_Finalize", limits.phase());
}

bool attempt(Supervisor& supervisor, const std::function<void()>& work,
             const std::function<void(const CollectiveError&)>& failed) {
  try {
    work();
    return true;
  } catch (const CollectiveError& error) {
    failed(error);
    return false;
  } catch (const Error& error) {
    supervisor.fail(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    supervisor.fail(ErrorKind::runtime, "out of memory");
  } catch (const std::exception& error) {
    supervisor.fail(ErrorKind::runtime, error.what());
  }
}

CaseRun::CaseRun(const Case& c, const std::vector<std::string>& command, transport::Control& world,
                 Supervisor& supervisor, Findings& findings, std::ostream* out)
    : case_(c),
      command_(command),
      world_(world),
      supervisor_(supervisor),
      progress_(supervisor.progress()),
      findings_(findings),
      out_(out) {}

void CaseRun::set_up() {
  setup_ = std::make_shared<Setup>(case_);
  faults_ = faults_of_run(*setup_);
  require_ranks(case_, world_.size());
  require_cores(case_);
}

void CaseRun::refits() {
  space_.emplace(case_.run.threads);
  progress_.begin("setup", cases::limits_of(case_).phase());
  report::Result known = describe(*setup_, command_);
  for (const std::string& note : known.notes) {
    if (is_root()) spdlog::warn("{}", note);
  }
  places_ = places_of(world_);
  known.environment.ranks = gather_ranks(world_, *setup_, places_);
  known.environment.job = gather_job(world_, this_launch());
  findings_.edit([&](report::Result& all) { all = known; });
  require_ranks_per_device();
  if (is_root() && out_ != nullptr) report::print_header(*out_, known);
  supervisor_.name_tensors(
      [setup = setup_](std::int32_t index) { return setup->model.tensors.at(static_cast<std::size_t>(index)).name; });
  if (case_.run.drill.empty()) {
    job_ = std::make_unique<Job>(world_, *space_, *setup_, faults_, places_, progress_);
  } else {
    job_ = std::make_unique<DrilledJob>(world_, *space_, *setup_, faults_, progress_);
  }
  Work& job = *job_;
  job.prepare(known);
  findings_.edit([&](report::Result& all) { all = known; });
  if (is_root() && out_ != nullptr) report::print_step_heading(*out_, known);
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
    if (out_ == nullptr) continue;
    progress_.begin_unprofiled("print", cases::limits_of(case_).phase());
    report::print_step(*out_, result(), result().refits.back());
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
    if (const auto sync = report::summarise(report::weight_sync_samples(all)); sync && all.bound && all.bound->seconds)
      all.efficiency = *all.bound->seconds / sync->median;
    judge(*setup_, all);
  });
}

bool CaseRun::traces() const { return !case_.output.trace.empty() || !case_.output.timeline.empty(); }

void CaseRun::start_trace() {
  trace_.emplace(most_steps(world_.size()));
  progress_.set_trace(&*trace_);
}

void CaseRun::gather_trace(std::int64_t number) {
  progress_.set_trace(nullptr);
  progress_.begin("gather the timeline", cases::limits_of(case_).phase());
  std::shared_ptr<const report::Timeline> timeline =
      gather_timeline(world_, *trace_, setup_->model, result().environment.ranks, number);
  trace_.reset();
  findings_.edit([&](report::Result& all) { all.timeline = std::move(timeline); });
}

/// Makes the wrong tensors the verdict from now on, even if counting their elements fails.
void CaseRun::name_wrong(const verify::StepResult& wrong) {
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

void CaseRun::fail_together(const CollectiveError& error) {
  const std::string phase = job_ ? transport::phase_of(progress_.where()) : "";
  findings_.edit([&](report::Result& all) {
    judge_failure(case_, {Ending::error, error.kind(), error.rank(), phase, error.what(), 0}, all);
  });
}

/// Requires that the device with the most ranks has as many as the case says, where it says so.
void CaseRun::require_ranks_per_device() const {
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

}  // namespace refit::engine
