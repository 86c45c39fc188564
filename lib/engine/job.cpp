#include "engine/job.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <string_view>

#include "core/clock.hpp"
#include "core/hash.hpp"
#include "engine/describe.hpp"
#include "engine/notes.hpp"
#include "engine/unequal_scales.hpp"
#include "transport/delta.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/together.hpp"
#include "verify/overflows.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::together;

/// Writes one line to rank 0's log when a long load has gone on for another second.
class LoadProgress {
 public:
  void operator()(std::int64_t done, std::int64_t all) {
    if (now() - last_ < 1.0 || all == 0) return;
    last_ = now();
    spdlog::info("loading: rank 0 has {:.0f} % of {:.2f} GiB",
                 100.0 * static_cast<double>(done) / static_cast<double>(all), static_cast<double>(all) / (1 << 30));
  }

 private:
  double last_ = now();
};

/// Returns the hash of everything about a tensor that all ranks must have in common.
std::uint64_t input_hash(const model::Tensor& tensor) {
  std::uint64_t hash = combine(hash_name(tensor.name), static_cast<std::uint64_t>(tensor.dtype));
  for (std::int64_t extent : tensor.shape) hash = combine(hash, static_cast<std::uint64_t>(extent));
  return combine(hash, std::bit_cast<std::uint64_t>(tensor.scaling));
}

}  // namespace

void update_weights(const kernels::ExecutionSpace& space, const cases::Case& c, const OwnSide& train,
                    std::int64_t refit, const Weights::Which& leaves_out) {
  if (c.run.update.changes()) train.weights->update(space, refit, c.run.update.fraction, leaves_out);
}

Job::Job(transport::Control& world, const kernels::ExecutionSpace& space, const Setup& setup,
         const inject::Faults& faults, const transport::Places& places, transport::Progress& progress,
         std::shared_ptr<OwnSide> train)
    : world_(world),
      space_(space),
      setup_(setup),
      places_(places),
      progress_(progress),
      limits_(cases::limits_of(setup.c)),
      exchange_(setup.exchange()),
      lies_(faults, exchange_, own()),
      how_(lies_.how(cases::how_of(setup.c))),
      train_(std::move(train)) {}

std::vector<OwnSide*> Job::made_sides() {
  std::vector<OwnSide*> sides;
  if (makes_train_) sides.push_back(train_.get());
  if (gen_) sides.push_back(&*gen_);
  return sides;
}

void Job::prepare(report::Result& result) {
  begin("prepare");
  require_same_inputs();
  makes_train_ = own().source && train_ == nullptr;
  if (makes_train_) train_ = std::make_shared<OwnSide>(Group::train, *own().source);
  if (own().destination) gen_.emplace(Group::gen, *own().destination);
  std::int64_t bytes = 0;
  together(world_, [&] {
    for (OwnSide* side : made_sides()) {
      const layout::Layout& layout = side->group == Group::train ? *setup_.train : *setup_.gen;
      side->local = layout::materialise(layout, setup_.model.tensors, side->rank);
      bytes += side->bytes();
    }
    if (train_ && !makes_train_) bytes += train_->bytes();
  });
  stage();
  std::int64_t neighbours = 0;
  for (const int host : places_.hosts)
    neighbours = std::max<std::int64_t>(neighbours, std::ranges::count(places_.hosts, host));
  host_bytes_ = world_.max(bytes) * neighbours;
  how_.phase_seconds = limits_.phase(host_bytes_);
  allocate(result);
  if (world_.rank() == 0) spdlog::info("probing links and memory");
  session_ = std::make_unique<session::Session>(space_, world_, *links_, places_, lies_.exchange(), *mine_, how_,
                                                progress_, lies_.decorators());
  say(session_->notes(), result);
  record_estimate(result);
  load(result);
  record_session(result);
  make_gen_places(result);
  make_prover(result);
}

/// Chooses what has a second place. Collective.
void Job::stage() {
  if (how_.commit != session::Commit::stage) return;
  std::optional<std::int64_t> most;
  if (setup_.c.refit.stage_bytes >= 0) most = setup_.c.refit.stage_bytes;
  staged_.emplace(world_, setup_.model, gen_ ? &gen_->local : nullptr, most);
}

/// Makes the prover: takes fingerprints of the tensors that gen alone stores, and a first look at the loaded weights.
void Job::make_prover(report::Result& result) {
  begin("verify");
  std::vector<verify::Constant> constants;
  together(world_, [&] {
    if (world_.rank() != 0) return;
    for (const model::Tensor& tensor : setup_.split.from_checkpoint) {
      constants.push_back(
          {tensor.index, source_fingerprint(space_, setup_, tensor, setup_.gen->format(tensor)->dtype)});
    }
  });
  prover_ = std::make_unique<session::Prover>(space_, world_, *session_, exchange_, *mine_,
                                              static_cast<std::uint64_t>(setup_.c.run.seed), std::move(constants),
                                              verify::Tuning{.count_seconds = setup_.c.run.count_seconds});
  not_finite_ = prover_->verifier().not_finite(Group::train);
  say(not_finite_notes(setup_, not_finite_), result);
  for (const auto& odd : prover_->verifier().check_train_holders()) {
    const std::string text =
        fmt::format("train rank {} holds other bits of {} {} than its replicas, before the first refit",
                    to_int(odd.train_rank), odd.tensor, to_string(odd.box));
    if (world_.rank() == 0) spdlog::error("{}", text);
    result.notes.push_back(text);
    if (setup_.c.run.verify == cases::Verify::off) throw CollectiveError(ErrorKind::data, text);
  }
}

/// Requires that all ranks, each of which read case, config and checkpoint headers itself, have read the same.
void Job::require_same_inputs() {
  const std::string text = common_text(setup_.c);
  std::vector<std::uint64_t> mine;
  for (const model::Tensor& tensor : setup_.model.tensors) mine.push_back(input_hash(tensor));
  transport::Control::Bytes words, hashes;
  for (char c : text) transport::append(words, c);
  for (std::uint64_t hash : mine) transport::append(hashes, hash);
  const auto first_text = transport::read_all<char>(world_.broadcast(std::move(words), 0));
  const auto first = transport::read_all<std::uint64_t>(world_.broadcast(std::move(hashes), 0));
  together(world_, [&] {
    const std::string theirs(first_text.begin(), first_text.end());
    if (theirs != text)
      fail_runtime("this rank's case differs from rank 0's:\n  rank 0: {}\n  here:   {}", theirs, text);
    for (std::size_t i = 0; i < std::max(first.size(), mine.size()); ++i) {
      if (i < first.size() && i < mine.size() && first[i] == mine[i]) continue;
      const auto& tensors = setup_.model.tensors;
      fail_runtime("this rank's model differs from rank 0's, first in tensor {} ({}); do all hosts see the same {}?", i,
                   i < tensors.size() ? tensors[i].name : "missing here", setup_.source());
    }
  });
}

void Job::allocate(report::Result& result) {
  begin("allocate");
  links_ = lies_.links(transport::make_links(world_, setup_.c.run.timeout_seconds, progress_), world_, gen_arena_,
                       how_.misc_buffer_bytes);
  // Ranks that are all on one host will map each other. Verification, however, has everything that is sent in memory at
  // a time.
  const bool one_host = std::ranges::count(places_.hosts, places_.hosts.front()) == std::ssize(places_.hosts);
  const bool is_lean = one_host && setup_.c.run.verify == cases::Verify::off;
  std::int64_t bytes = 0;
  together(world_, [&] {
    for (const OwnSide* side : made_sides()) bytes += side->bytes() + adapted_bytes(*side);
    if (gen_) bytes += (staged_ ? 2 : 1) * GenPlace::bytes(setup_, gen_->rank);
    if (staged_ && gen_) bytes += staged_->bytes();
    bytes += session::staging_bytes(exchange_, how_, own(),
                                    is_lean ? session::Mapped::every_rank : session::Mapped::perhaps_not_all);
  });
  // The pages of a shared window are main memory too.
  links_->require_room(places_.hosts[static_cast<std::size_t>(world_.rank())], bytes,
                       "use fewer layers (--layers), a -small model, or more hosts; of the executors direct needs "
                       "least: no staging memory beside the weights");
  const bool shared = how_.row().stores || links_->maps_always();
  // Both places of gen's storages are one arena.
  const std::int64_t first = gen_ ? round_up(gen_->bytes(), transport::kStorageAlignment) : 0;
  const std::int64_t second = gen_ && staged_ ? staged_->bytes() : 0;
  if (shared) {
    const auto start = now();
    together(world_, [&] { peers_ = links_->peer_memory(first + second); });
    const double seconds = world_.max(now() - start);
    const std::string mechanism = peers_->mechanism();
    if (!mechanism.empty()) {
      result.prepare.emplace_back("map", seconds);
      if (world_.rank() == 0) result.notes.push_back(mechanism);
    }
  }
  together(world_, [&] {
    for (OwnSide* side : made_sides()) {
      const bool is_gen = side->group == Group::gen;
      const std::int64_t own = side->bytes() + adapted_bytes(*side);
      if (!is_gen || !shared) side->own_arena = links_->memory(is_gen ? first + second : own);
      std::byte* memory = side->own_arena ? side->own_arena->span().data() : peers_->local();
      side->arena = {memory, static_cast<std::size_t>(own)};
      side->weights = std::make_unique<Weights>(setup_, side->local, side->group, side->rank,
                                                transport::LocalMemory(side->local, memory));
      if (!is_gen || !staged_) continue;
      side->second_arena = {memory + first, static_cast<std::size_t>(second)};
      side->second =
          std::make_unique<Weights>(setup_, side->local, side->group, side->rank,
                                    staged_->second(side->local, side->weights->memory(), side->second_arena.data()));
    }
  });
  mine_ = std::make_unique<session::OwnMemory>();
  if (train_) mine_->source.emplace(train_->memory());
  if (setup_.adapted) adapt();
  if (gen_) mine_->destination.emplace(gen_->memory());
  if (gen_ && staged_) mine_->second.emplace(gen_->second_memory());
  if (staged_) mine_->staged = &*staged_;
  if (gen_) gen_arena_ = gen_->arena;
  mine_->peers = peers_.get();
}

std::int64_t Job::adapted_bytes(const OwnSide& side) const {
  if (!setup_.adapted || side.group != Group::train) return 0;
  return session::AdaptedWeights::bytes(setup_.model, *setup_.train, *setup_.adapted, side.rank);
}

/// Makes what adapters change of train's weights what the session sends. Collective.
void Job::adapt() {
  std::byte* arena = nullptr;
  if (train_) {
    unadapted_.emplace(train_->local, train_->weights->memory());
    arena = train_->arena.data() + train_->bytes();
  }
  adapted_ =
      std::make_unique<session::AdaptedWeights>(space_, world_, *links_, setup_.model, *setup_.train, *setup_.adapted,
                                                own().source, unadapted_ ? &*unadapted_ : nullptr, arena, progress_);
  if (!train_) return;
  mine_->source.emplace(adapted_->layout(), adapted_->memory(), train_->arena);
  mine_->adapt = [this] { adapted_->run(lies_.rounds_products()); };
}

void Job::load(report::Result& result) {
  progress_.begin("load", limits_.phase(host_bytes_), true);
  if (world_.rank() == 0) spdlog::info("loading {}", setup_.source());
  world_.barrier();
  const double start = now();
  report::Load read;
  std::vector<std::int32_t> rounded;
  std::vector<verify::Overflow> overflows;
  together(world_, [&] {
    LoadProgress report;
    for (const OwnSide* side : made_sides()) {
      const Loaded loaded = side->weights->load(space_, [&](std::int64_t done, std::int64_t all) {
        progress_.moved(done);
        if (world_.rank() == 0) report(done, all);
      });
      read.bytes_read += loaded.statistics.bytes_read;
      read.bytes_needed += loaded.statistics.bytes_needed;
      rounded.insert(rounded.end(), loaded.rounded.begin(), loaded.rounded.end());
      overflows.insert(overflows.end(), loaded.overflows.begin(), loaded.overflows.end());
    }
    if (gen_ && gen_->second)
      gen_->second->load(space_, [this](std::int64_t done, std::int64_t) { progress_.moved(done); });
  });
  if (makes_train_)
    train_->weights->flip_bits(space_, [&](const model::Tensor& tensor) { return lies_.corrupts(tensor); });
  if (mine_->adapt) mine_->adapt();
  result.prepare.emplace_back("load", world_.max(now() - start));
  result.load = report::Load{world_.sum(read.bytes_read), world_.sum(read.bytes_needed)};
  say(rounding_notes(setup_, world_, rounded), result);
  std::vector<std::string> unequal;
  together(world_, [&] {
    if (world_.rank() == 0) unequal = unequal_scale_notes(space_, setup_);
  });
  say(unequal, result);
  say(overflow_notes(setup_, verify::gather_overflows(overflows, world_)), result);
}

void Job::say(const std::vector<std::string>& notes, report::Result& result) const {
  if (world_.rank() != 0) return;
  for (const std::string& note : notes) {
    spdlog::warn("{}", note);
    result.notes.push_back(note);
  }
}

/// Collective.
void Job::make_gen_places(report::Result& result) {
  std::string text;
  together(world_, [&] {
    gen_places_.push_back(std::make_unique<GenPlace>(space_, setup_, lies_, own(), mine_->source, mine_->destination,
                                                     gen_ ? gen_->weights.get() : nullptr));
    if (staged_)
      gen_places_.push_back(std::make_unique<GenPlace>(space_, setup_, lies_, own(), mine_->source, mine_->second,
                                                       gen_ ? gen_->second.get() : nullptr));
    if (!has_cache_scales() || world_.rank() != 0) return;
    true_scales_ = std::make_unique<CacheScales>(space_, setup_, train_->local, train_->weights->memory());
    text = true_scales_->describe();
  });
  if (!text.empty()) {
    spdlog::info("{}", text);
    result.notes.push_back(text);
  }
  for (const std::unique_ptr<GenPlace>& place : gen_places_) {
    const std::vector<std::string> texts = place->make(world_, *links_);
    if (place == gen_places_.front()) say(texts, result);
  }
}

void Job::record_estimate(report::Result& result) const {
  const session::Estimate& estimate = session_->estimate();
  result.rates = to_report(estimate.probed);
  result.bound = to_report(estimate.bound, true);
  result.wire = estimate.wire;
  result.model_seconds = estimate.model;
  if (how_.byte_matrix) result.byte_matrix = estimate.byte_matrix;
}

void Job::record_session(report::Result& result) const {
  result.prepare.emplace_back("plan", world_.max(session_->plan_seconds()));
  result.prepare.emplace_back("connect", world_.max(session_->connect_seconds()));
  const auto arena = [](const auto& side) { return side ? std::ssize(side->arena) : std::int64_t{0}; };
  result.memory = report::Memory{world_.max(arena(train_)), world_.max(arena(gen_)),
                                 world_.max(session_->staging_bytes()), world_.max(staged_ ? staged_->bytes() : 0)};
  if (staged_ && !staged_->is_whole())
    say({fmt::format("refit.stage_bytes: {} of {} layers (tensors of no layer are one) have a second place; the others "
                     "move while gen pauses, so that proofs come after the flip",
                     staged_->count(), staged_->units())},
        result);
  result.plan_hash = hexadecimal(session_->plan_hash());
  for (std::size_t e = 0; e < result.engines.size(); ++e) {
    const bool mine = gen_ && setup_.gen->engine(gen_->rank) == static_cast<std::int32_t>(e);
    result.engines[e].bytes = world_.sum(mine ? arena(gen_) : std::int64_t{0});
  }
  const transport::Schedule schedule = session_->schedule();
  result.schedule = report::Schedule{world_.max(schedule.groups), world_.max(schedule.operations),
                                     world_.max(schedule.serial_groups)};
  if (how_.tuning.delta != transport::Delta::off) result.delta = delta_of_session();
  if (how_.executor != cases::ExecutorKind::m2n) return;
  together(world_, [&] {
    const plan::Paths& paths = lies_.exchange().paths;
    const plan::Resharding resharding = plan::make_reshards(paths.bulk, paths.source, paths.destination);
    result.m2n = to_report(resharding, setup_.model, paths.bulk, paths.source, paths.destination);
  });
}

/// Collective.
report::Delta Job::delta_of_session() const {
  report::Delta delta{std::string(name(how_.tuning.delta)), session_->sum_of(transport::kDeltaDenseBytes),
                      world_.max(session_->kept_bytes())};
  for (const std::int64_t bytes : {1, 2, 4}) {
    delta.break_even.push_back({bytes, transport::break_even(kernels::DeltaForm::index, bytes),
                                transport::break_even(kernels::DeltaForm::bitmap, bytes)});
  }
  return delta;
}

void Job::measure_again(report::Result& result) {
  session_->measure_again();
  record_estimate(result);
}

std::int64_t Job::library_bytes() const {
  std::int64_t bytes = 0;
  for (const transport::Statistic& statistic : session_->statistics()) {
    if (statistic.unit == transport::Statistic::Unit::bytes) bytes += static_cast<std::int64_t>(statistic.value);
  }
  return world_.max(bytes);
}

report::Refit Job::refit(std::int64_t number) {
  update(number);
  return record(number, move(number));
}

void Job::update(std::int64_t number) {
  progress_.begin("update", limits_.refit());
  lies_.begin(number);
  for (const std::unique_ptr<GenPlace>& place : gen_places_) place->begin(number);
  if (!train_) return;
  update_weights(space_, setup_.c, *train_, number,
                 [&](const model::Tensor& tensor) { return lies_.loses_update(tensor, number); });
}

session::RefitSeconds Job::move(std::int64_t number) {
  finalise_ = [this, number] { brought().finalise(number); };
  const session::RefitSeconds mine = session_->refit(finalise_, setup_.c.run.version(number));
  if (!session_->missed().empty() && world_.rank() == 0)
    spdlog::warn("refit {}: it brings everything, since {}", number, to_string(session_->missed()));
  return mine;
}

report::Refit Job::record(std::int64_t number, const session::RefitSeconds& mine) const {
  progress_.at("wait for all ranks");
  report::Refit result;
  result.number = number;
  result.warmup = number <= setup_.c.run.warmup;
  result.is_committed = false;
  result.version.number = setup_.c.run.version(number);
  result.weight_sync = world_.max(mine.total);
  if (adapted_) result.phases.emplace_back("adapt", world_.max(mine.adapt));
  if (session_->quantises_first()) result.phases.emplace_back("quantise", world_.max(mine.quantise));
  if (session_->reduces()) result.phases.emplace_back("quantise.reduce", world_.max(mine.reduce));
  result.phases.emplace_back("bulk", world_.max(mine.bulk));
  result.phases.emplace_back("misc", world_.max(mine.misc));
  result.phases.emplace_back("finalize", world_.max(mine.finalise));
  if (how_.tuning.delta != transport::Delta::off) {
    result.delta = {session_->sum_of(transport::kDeltaBytes), session_->sum_of(transport::kDeltaChanged),
                    session_->sum_of(transport::kDeltaElements)};
  }
  for (const transport::Statistic& statistic : session_->statistics()) {
    if (statistic.unit == transport::Statistic::Unit::part)
      result.phases.emplace_back(fmt::format("bulk.{}", statistic.name), world_.max(statistic.value));
    // Seconds of this kind end when all copies are enqueued.
    if (statistic.unit == transport::Statistic::Unit::seconds) result.host_seconds = world_.max(statistic.value);
  }
  if (how_.commit == session::Commit::layers) {
    double longest = 0;
    for (const auto& [part, seconds] : mine.parts) {
      const double of_part = world_.max(seconds);
      longest = std::max(longest, of_part);
      if (part != "misc") result.phases.emplace_back(fmt::format("bulk.{}", part), of_part);
    }
    result.phases.emplace_back("pause", longest);
  }
  return result;
}

void Job::commit(report::Refit& refit) {
  if (session_->stages()) {
    progress_.begin("flip", limits_.refit());
    const session::FlipSeconds mine = session_->flip(finalise_);
    const double background = refit.weight_sync;
    const double pause = world_.max(mine.total);
    const auto add = [&refit](std::string_view name, double seconds) {
      const auto phase = std::ranges::find(refit.phases, name, [](const auto& one) { return one.first; });
      phase->second += seconds;
    };
    add("bulk", world_.max(mine.bulk));
    add("misc", world_.max(mine.misc));
    add("finalize", world_.max(mine.finalise));
    refit.phases.emplace_back("background", background);
    refit.phases.emplace_back("pause", pause);
    refit.weight_sync += pause;
  }
  refit.is_committed = true;
  session_->require_version(refit.version.number);
}

verify::StepResult Job::verify(std::int64_t number, report::Result& result, const verify::Named& named) {
  if (adapted_) {
    progress_.begin("adapt plainly", limits_.phase(host_bytes_), true);
    adapted_->run_plainly();
  }
  begin("verify");
  verify::StepResult step = prover_->prove(number, [&](const verify::StepResult& wrong) {
    named(wrong);
    progress_.begin("count", limits_.phase(host_bytes_) + setup_.c.run.count_seconds);
  });
  brought().verify(true_scales_.get(), world_, step);
  if (step.ok()) {
    session_->set_proved(step.fingerprint_gen);
  } else {
    session_->restart();
  }
  if (!looked_at_gen_)
    say(not_finite_notes(setup_, not_finite_, prover_->verifier().not_finite(Group::gen), step.overflows), result);
  looked_at_gen_ = true;
  warn_of_overflows(step);
  return step;
}

/// Writes to the log which values became infinite, of the first tensors that have more of them than ever before.
void Job::warn_of_overflows(const verify::StepResult& step) {
  constexpr int kNamed = 5;
  int more = 0;
  for (const verify::Overflow& overflow : step.overflows) {
    std::int64_t& most = overflows_[overflow.tensor];
    if (overflow.elements <= most) continue;
    most = overflow.elements;
    if (world_.rank() == 0 && ++more <= kNamed)
      spdlog::warn("refit {}: {}", step.step, overflow_text(setup_, overflow));
  }
  if (more > kNamed) spdlog::warn("refit {}: values of {} more tensors became infinite", step.step, more - kNamed);
}

void Job::dump() const {
  if (setup_.c.output.dump_train.empty() && setup_.c.output.dump_gen.empty()) return;
  progress_.begin("dump", limits_.phase(host_bytes_));
  together(world_, [&] {
    if (train_ && !setup_.c.output.dump_train.empty())
      train_->weights->dump(setup_.c.output.dump_train, *setup_.train, train_->rank, {});
    if (gen_) dump_gen(*setup_.gen, gen_->rank);
  });
}

void Job::dump_gen(const layout::Layout& side, Rank rank) const {
  if (!gen_ || setup_.c.output.dump_gen.empty()) return;
  gen_places_[static_cast<std::size_t>(session_->live())]->dump(setup_.c.output.dump_gen, side, rank);
}

}  // namespace refit::engine
