#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <optional>

#include "engine/describe.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/job.hpp"
#include "engine/outputs.hpp"
#include "engine/together.hpp"
#include "report/statistics.hpp"
#include "report/table.hpp"
#include "transport/location.hpp"

namespace refit::engine {
namespace {

void log_to_stderr(int rank) {
  auto logger = spdlog::stderr_logger_mt("refit");
  logger->set_pattern(rank == 0 ? "refit: %v" : fmt::format("refit: rank {}: %v", rank));
  spdlog::set_default_logger(logger);
}

void require_ranks(const Case& c, int started) {
  const std::int64_t needed = c.train_ranks() + c.gen_ranks();
  if (started == needed) return;
  fail_usage(
      "this case needs {} ranks, {} for train ({}) and {} for gen ({}), but {} were started; start it with: mpirun -np "
      "{} refit run ...",
      needed, c.train_ranks(), to_string(c.train.layout), c.gen_ranks(), to_string(c.gen.layout), started, needed);
}

/// Who runs where: gathered once, known to all ranks, so that any of them can write the result.
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
  for (std::int32_t i = 0; i < world.size(); ++i) {
    const bool is_train = i < setup.train->ranks();
    const Process& process = all[static_cast<std::size_t>(i)];
    const layout::Layout& side = is_train ? *setup.train : *setup.gen;
    ranks.push_back({i, is_train ? "train" : "gen", process.pid, process.host,
                     kernels::Runtime::has_device() ? fmt::format("cuda{}", places.local_device(i)) : "cpu",
                     parse_coordinates(side.coordinates(Rank{is_train ? i : i - setup.train->ranks()}))});
  }
  return ranks;
}

Extents unflatten(std::int64_t linear, const Shape& shape) {
  Extents index = Extents::filled(shape.size(), 0);
  for (int d = shape.size() - 1; d >= 0; --d) {
    index[d] = linear % shape[d];
    linear /= shape[d];
  }
  return index;
}

/// Adds one verified refit to what is reported.
void add(const verify::StepResult& step, const model::Model& model, report::Refit& refit, report::Result& result) {
  refit.elements_wrong = step.elements_wrong;
  refit.counted = step.tensors_not_counted == 0;
  refit.kl_max = step.kl.max;
  if (!result.verification) result.verification.emplace();
  report::Verification& total = *result.verification;
  const bool first_wrong = total.wrong.empty();
  ++total.refits;
  total.tensors = step.tensors;
  total.elements = step.elements;
  total.tensors_wrong = std::max(total.tensors_wrong, step.tensors_wrong);
  total.elements_wrong = std::max(total.elements_wrong, step.elements_wrong);
  total.tensors_not_counted = std::max(total.tensors_not_counted, step.tensors_not_counted);
  total.fingerprint_train = hexadecimal(step.fingerprint_train);
  total.fingerprint_gen = hexadecimal(step.fingerprint_gen);
  if (!total.kl) total.kl.emplace();
  total.kl->mean = std::max(total.kl->mean, step.kl.mean);
  if (step.kl.max > total.kl->max)
    total.kl = report::Kl{step.kl.max, total.kl->mean, step.kl.tensor, total.kl->not_finite};
  total.kl->not_finite = std::max(total.kl->not_finite, step.kl.not_finite);
  for (const verify::WrongTensor& wrong : step.wrong) {
    if (!first_wrong) break;
    report::WrongTensor entry{wrong.tensor, to_int(wrong.gen_rank), wrong.elements_wrong, {}, wrong.counted};
    if (wrong.first_index >= 0) entry.first_index = {wrong.first_index};
    if (const model::Tensor* tensor = model.find(wrong.tensor); tensor != nullptr && wrong.first_index >= 0) {
      const Extents index = unflatten(wrong.first_index, tensor->file_shape());
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

/// One process of `refit run`, from MPI_Init to the exit code.
class Run {
 public:
  Run(const Case& c, const std::vector<std::string>& command)
      : case_(c),
        command_(command),
        runtime_(session_.node_rank(), session_.node_size()),
        world_(transport::make_mpi_control()),
        result_(describe(c, command)),
        outputs_(c.output) {
    log_to_stderr(session_.rank());
  }

  int operator()() {
    try {
      together(*world_, [&] {
        if (is_root()) outputs_.check();
        setup_ = std::make_unique<Setup>(case_);
        require_ranks(case_, session_.size());
        if (is_root()) outputs_.remove_older();
      });
      if (!is_root()) outputs_.assume_checked();
      return refits();
    } catch (const CollectiveError& error) {
      return fail_together(error);
    } catch (const Error& error) {
      fail_alone(error.kind(), false, error.what());
    } catch (const std::bad_alloc&) {
      fail_alone(ErrorKind::runtime, false, "out of memory");
    } catch (const std::exception& error) {
      fail_alone(ErrorKind::runtime, false, error.what());
    }
  }

 private:
  bool is_root() const { return session_.rank() == 0; }

  int refits() {
    result_ = describe(*setup_, command_);
    if (is_root() && !result_.notes.empty()) spdlog::warn("{}", result_.notes.front());
    places_ = places_of(*world_);
    result_.environment.ranks = gather_ranks(*world_, *setup_, places_);
    require_ranks_per_device();
    if (is_root()) report::print_header(std::cout, result_);
    job_ = std::make_unique<Job>(session_, *world_, space_, *setup_, places_);
    Job& job = *job_;
    Watchdog watchdog(session_.rank(), setup_->model, job.progress(),
                      [this](const std::string& text) { fail_alone(ErrorKind::runtime, true, text); });
    job.prepare(result_);
    if (is_root()) report::print_step_heading(std::cout);
    const std::int64_t last = case_.run.warmup + case_.run.steps;
    for (std::int64_t number = 1; number <= last; ++number) {
      watchdog.arm(case_.run.timeout_seconds);
      report::Refit refit = job.refit(number);
      watchdog.disarm();
      const bool verifies = case_.run.verify == Verify::every || (case_.run.verify == Verify::last && number == last);
      if (verifies) {
        watchdog.arm(verification_limit());
        const verify::StepResult step =
            job.verify(number, result_, [&](const verify::StepResult& wrong) { name_wrong(wrong); });
        watchdog.disarm();
        named_.reset();
        add(step, setup_->model, refit, result_);
      }
      if (is_root()) report::print_step(std::cout, result_, refit);
      if (is_root()) result_.refits.push_back(std::move(refit));  // the others' would only take memory
    }
    if (result_.m2n) result_.m2n->library_bytes_max = job.library_bytes();
    job.dump();
    job.measure_again(result_);
    return finish();
  }

  /// What is wrong is the verdict from now on, whatever becomes of counting.
  void name_wrong(const verify::StepResult& wrong) {
    named_ = wrong;
    if (!is_root()) return;
    // All that fits on a screen of the first wrong refit, a line of others.
    const bool is_first = !result_.verification || result_.verification->wrong.empty();
    const std::size_t shown = std::min<std::size_t>(wrong.wrong.size(), is_first ? 10 : 1);
    for (std::size_t i = 0; i < shown; ++i) {
      spdlog::error("refit {}: {} is wrong on gen rank {}", wrong.step, wrong.wrong[i].tensor,
                    to_int(wrong.wrong[i].gen_rank));
    }
    if (wrong.wrong.size() > shown) {
      spdlog::error("refit {}: and {} more; {} tensors are wrong in all", wrong.step, wrong.wrong.size() - shown,
                    wrong.tensors_wrong);
    }
  }

  /// A refit's limit, time to read every weight at a slow machine's pace, and that for counting wrong elements, so that
  /// these never end in a timeout: verification is not what is measured.
  double verification_limit() const {
    constexpr double kSlowBytesPerSecond = 1e8;
    if (case_.run.timeout_seconds <= 0) return 0;
    const double stored = static_cast<double>(result_.memory->train_bytes_max * case_.train_ranks() +
                                              result_.memory->gen_bytes_max * case_.gen_ranks());
    return case_.run.timeout_seconds + stored / kSlowBytesPerSecond + case_.run.count_seconds;
  }

  int finish() {
    if (const auto sync = report::summarise(report::weight_sync_samples(result_));
        sync && result_.bound && result_.bound->seconds) {
      result_.efficiency = *result_.bound->seconds / sync->median;
    }
    judge(*setup_, result_);
    together(*world_, [&] {
      if (!is_root()) return;
      outputs_.write(result_);
      report::print_summary(std::cout, result_);
    });
    return static_cast<int>(world_->max(std::int64_t{result_.exit_code}));  // rank 0's may be about its files
  }

  /// All ranks threw the same error and are in step: rank 0 speaks and writes, MPI ends in good order.
  int fail_together(const Error& error) {
    const int code = judge_error(case_, error.kind(), false, error.what(), result_);
    if (job_) result_.error->phase = job_->progress().phase;
    if (!is_root()) return code;
    spdlog::error("{}: {}", code == 0 ? "as expected" : "error", error.what());
    outputs_.write(result_);
    return result_.exit_code;
  }

  /// The most ranks that share a device must be as many as the case says.
  void require_ranks_per_device() const {
    const std::int64_t wanted = case_.run.ranks_per_device;
    if (wanted == 0) return;
    std::map<std::pair<std::string, std::string>, std::int64_t> ranks;
    for (const report::RankInfo& rank : result_.environment.ranks) ++ranks[{rank.host, rank.device}];
    const auto most =
        std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    if (most->second == wanted) return;
    throw CollectiveError(ErrorKind::usage, fmt::format("run.ranks_per_device: {} ranks share {} of {}, not {}",
                                                        most->second, most->first.second, most->first.first, wanted));
  }

  /// Only this rank (as far as it knows) has failed: it writes the results and takes the others down.
  [[noreturn]] void fail_alone(ErrorKind kind, bool timeout, const std::string& message) {
    const int code = timeout && named_ ? judge_named() : judge_error(case_, kind, timeout, message, result_);
    if (result_.error) result_.error->rank = session_.rank();
    if (result_.error && job_) result_.error->phase = job_->progress().phase;
    // Of other ranks the log's pattern says the rank.
    spdlog::error("{}{}{}", is_root() ? "rank 0: " : "", code == 0 ? "as expected: " : "", message);
    outputs_.write(result_);
    transport::MpiSession::abort(result_.exit_code);
  }

  /// The verdict where wrong data had been named before time ran out.
  int judge_named() {
    report::Refit refit;
    refit.number = named_->step;
    add(*named_, setup_->model, refit, result_);
    judge(*setup_, result_);
    return result_.exit_code;
  }

  const Case& case_;
  const std::vector<std::string>& command_;
  transport::MpiSession session_;
  kernels::Runtime runtime_;
  kernels::ExecutionSpace space_;
  std::unique_ptr<transport::Control> world_;
  report::Result result_;
  std::unique_ptr<Setup> setup_;
  Places places_;
  std::unique_ptr<Job> job_;
  std::optional<verify::StepResult> named_;  ///< what is wrong, while its elements are counted
  Outputs outputs_;
};

}  // namespace

int refuse(const Case& c, const std::vector<std::string>& command, const Error& error, bool writes) {
  report::Result result = describe(c, command);
  const int code = judge_error(c, error.kind(), false, error.what(), result);
  if (!writes) return code;
  OutputSection files = c.output;
  files.dump_train = files.dump_gen = "";  // no run, no dumps
  Outputs outputs(files);
  try {
    outputs.check();
  } catch (const Error&) {
    // This error is the second: the first one is reported.
  }
  outputs.write(result);
  return result.exit_code;
}

int run(const Case& c, const std::vector<std::string>& command) { return Run(c, command)(); }

}  // namespace refit::engine
