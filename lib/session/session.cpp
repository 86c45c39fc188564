#include "session/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>
#include <set>
#include <utility>

#include "core/clock.hpp"
#include "plan/stream.hpp"
#include "transport/delta.hpp"
#include "transport/p2p.hpp"
#include "transport/together.hpp"

namespace refit::session {
namespace {

using transport::together;

constexpr const char* kBulk = "bulk";
constexpr const char* kMisc = "misc";

std::vector<int> iota(int begin, int count) {
  std::vector<int> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), begin);
  return values;
}

bool all_weights(const model::Tensor& /*weight*/) { return true; }

/// Returns which weights have their bytes and scales in memory before a refit sends them: all, except those that an
/// executor makes as it sends them.
SentWeights::HasMemory staged(const Exchange& exchange, bool sends_quantise) {
  if (!sends_quantise) return all_weights;
  std::set<std::int32_t> misc;
  for (const model::Tensor& tensor : exchange.paths.misc) misc.insert(tensor.index);
  return [misc](const model::Tensor& weight) { return misc.contains(weight.index); };
}

/// Returns the hash of the plan over all ranks: each copy counts where it is sent.
Sum128 sum_hashes(transport::Control& world, const Exchange& exchange, const std::vector<plan::Copy>& copies) {
  const OwnRanks own = exchange.world().own(world.rank());
  Sum128 mine;
  std::int32_t tensor = -1;
  Sum128 factor;
  for (const plan::Copy& copy : copies) {
    if (!plan::sends(own, copy)) continue;
    if (copy.tensor != tensor) factor = plan::hash_factor(exchange.model[copy.tensor].name);
    tensor = copy.tensor;
    mine += plan::hash(copy, factor);
  }
  transport::Control::Bytes bytes;
  transport::append(bytes, mine);
  Sum128 all;
  for (const transport::Control::Bytes& one : world.gather_all(bytes)) all += transport::read_all<Sum128>(one).front();
  return all;
}

bool may_quantise_as_it_sends(const Exchange& exchange, const How& how) {
  return exchange.quantised && how.row().stores && how.quantises_as_it_sends &&
         quantiser_of(exchange.model.quantisation.format, exchange.quantised->library);
}

}  // namespace

std::int64_t staging_bytes(const Exchange& exchange, const How& how, const OwnRanks& own, Mapped mapped) {
  const plan::Paths& paths = exchange.paths;
  // The ring is one for both places of gen's storages.
  const std::int64_t places = how.commit == Commit::stage ? 2 : 1;
  const std::int64_t misc = plan::misc_stream_bytes(paths.misc, paths.source);
  const std::int64_t misc_buffer = std::min(how.misc_buffer_bytes, misc);
  const auto arena_bytes = [&](const layout::Layout& stored, Rank rank) {
    return transport::ArenaMap(layout::materialise(stored, exchange.model.tensors, rank)).bytes;
  };
  std::int64_t bytes = 0;
  std::int64_t moved = 0;
  if (own.source && exchange.quantised) {
    const auto layout = layout::materialise(exchange.quantised->layout, exchange.model.tensors, *own.source);
    const bool sends_quantise = mapped == Mapped::every_rank && may_quantise_as_it_sends(exchange, how);
    bytes += SentWeights::bytes(exchange.model, layout, staged(exchange, sends_quantise));
  }
  if (own.source && how.tuning.delta != transport::Delta::off)
    bytes += places * arena_bytes(paths.source, *own.source) / 8 * 9;
  if (own.destination || own.source == Rank{0}) bytes += places * 2 * misc_buffer;
  if (own.source && misc > 0) {
    const transport::Tuning gather = transport::gather_tuning(how.tuning, paths.source.stages(), misc_buffer);
    bytes += places * std::min(transport::ring_bytes(gather), gather.ring_chunks * misc_buffer);
  }
  if (own.source) {
    const layout::Layout& stored = exchange.quantised ? exchange.quantised->train : paths.source;
    moved += arena_bytes(stored, *own.source) * paths.destination.ranks();
  }
  if (own.destination) moved += arena_bytes(paths.destination, *own.destination);
  return bytes + (how.row().has_parts ? 1 : places) * how.row().staging_bytes(how.tuning, moved);
}

Session::Session(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
                 const transport::Places& places, const Exchange& exchange, const OwnMemory& mine, const How& how,
                 transport::Progress& progress, const Decorators& decorators)
    : space_(space),
      world_(world),
      links_(links),
      places_(places),
      exchange_(exchange),
      mine_(mine),
      how_(how),
      progress_(progress),
      placement_(places.placement(exchange.world())) {
  together(world_, [&] {
    if (!exchange_.quantised || !is_source()) return;
    sent_layout_ = layout::materialise(exchange_.quantised->layout, exchange_.model.tensors, *own().source);
    if (mine_.source->layout.fills.empty()) sent_layout_.fills.clear();  // the caller answers for no constant parts
  });
  sends_quantise_ = may_quantise_as_it_sends(exchange_, how_) && all_mapped();
  make_communicators();
  begin("probe");
  probe();
  estimate_.bound = plan::lower_bound(exchange_.paths.tensors(), exchange_.paths.source, exchange_.paths.destination,
                                      estimate_.rates, placement_);
  estimate_.near_domains = plan::choose_near_domains(exchange_.paths.bulk, exchange_.paths.source,
                                                     exchange_.paths.destination, estimate_.rates, rules());
  estimate_.fan_out = choose_fan_out();
  double start = now();
  std::vector<plan::Copy> copies;
  together(world_, [&] { copies = planner().rank_plan(own()).copies; });
  plan_seconds_ = now() - start;
  plan_hash_ = sum_hashes(world_, exchange_, copies);
  count(world_, exchange_, how_, copies, placement_, estimate_);

  if (exchange_.quantised) sent_ = make_sent(staged(exchange_, sends_quantise_));
  begin("plan");
  start = now();
  together(world_, [&] {
    if (decorators.copies) decorators.copies(planner(), copies);
    require_stored(copies);
  });
  if (how_.check_agreement) agree(copies);
  make_executors(copies);
  plan_seconds_ += now() - start;
  connect();
  start = now();
  if (decorators.paths)
    for (std::vector<Path>& paths : paths_) decorators.paths(paths);
  keeps_magnitudes_ = decorators.keeps_magnitudes;
  register_memory();
  plan_seconds_ += now() - start;
  note_mechanism();
  note_delta();

  const std::int64_t unmapped = sum_of("unmapped_peers");
  const std::string why = mine_.peers != nullptr ? mine_.peers->note() : "";
  if (unmapped > 0)
    note(fmt::format("direct: {} pairs of ranks cannot map each other's memory and use p2p{}{}", unmapped / 2,
                     why.empty() ? "" : ": ", why));
}

/// Releases the executors' memory from the communicators that it is registered with, before either goes.
Session::~Session() {
  for (transport::Communicator* communicator : all_communicators()) communicator->register_memory({});
}

/// Returns whether every rank can store into every destination rank's memory.
bool Session::all_mapped() const {
  std::int64_t unmapped = mine_.peers == nullptr ? 1 : 0;
  const WorldMap map = exchange_.world();
  for (std::int32_t r = 0; r < map.destination && unmapped == 0; ++r) {
    if (mine_.peers->map(map.world_rank(Side::destination, Rank{r})) == nullptr) ++unmapped;
  }
  return world_.sum(unmapped) == 0;
}

void Session::make_communicators() {
  const transport::ExecutorRow& row = how_.row();
  const layout::Layout& source = exchange_.paths.source;
  const WorldMap map = exchange_.world();
  // The world's communicator serves the probe, and executors with a single communicator. Ranks that all map each
  // other's memory need none to store into it.
  const bool needed = links_.probes_messages() || !row.stores || !all_mapped();
  // All ranks must agree whether there is a misc stream, whatever each believes to be in it.
  const bool has_misc = world_.max(static_cast<std::int64_t>(exchange_.paths.misc.empty() ? 0 : 1)) != 0;
  if (needed || has_misc) {
    row.prepare(world_);
    note(links_.prepare());
  }
  const std::int64_t streams = how_.tuning.streams;
  communicators_.push_back(needed ? links_.communicator(transport::Purpose::bulk, iota(0, map.size()), streams)
                                  : nullptr);
  std::vector<transport::Communicator*> route{communicators_.front().get()};
  if (how_.per_stage) {
    route.clear();
    const std::int64_t lanes = row.takes_turns ? transport::lanes_of_stage(streams, source.stages()) : streams;
    for (int stage = 0; stage < source.stages(); ++stage) {
      communicators_.push_back(
          links_.communicator(transport::Purpose::bulk, transport::members_of_stage(source, map, stage), lanes));
      route.push_back(communicators_.back().get());
    }
  }
  if (has_misc) {
    std::vector<int> stream = iota(map.first_destination(), map.destination);
    if (stream.front() != 0) stream.insert(stream.begin(), 0);
    gather_ = links_.communicator(transport::Purpose::gather, iota(0, map.source), streams);
    stream_ = links_.communicator(transport::Purpose::stream, stream, 1);
  }
  routes_ = std::make_unique<transport::Routes>(source, std::move(route), map);
}

void Session::probe() {
  const auto arena_bytes = [&](Side side) {
    const std::optional<SideMemory>& memory = mine_.of(side);
    return memory ? std::optional(std::ssize(memory->arena)) : std::nullopt;
  };
  const std::optional<std::int64_t> arena = arena_bytes(Side::destination);
  constexpr std::int64_t kNone = -(std::int64_t{1} << 62);
  transport::ProbedRun run{exchange_.world().source, world_.sum(arena.value_or(0)),
                           world_.max(arena_bytes(Side::source).value_or(0))};
  if (!exchange_.paths.bulk.empty()) {
    run.from = exchange_.paths.source.format(exchange_.paths.bulk.front())->dtype;
    run.to = exchange_.paths.destination.format(exchange_.paths.bulk.front())->dtype;
  }
  const transport::Probed probed{space_,
                                 places_,
                                 communicators_.front().get(),
                                 mine_.peers,
                                 how_.tuning.streams,
                                 exchange_.world(),
                                 run,
                                 -world_.max(arena ? -*arena : kNone)};
  estimate_.probed = transport::best_of(estimate_.probed, links_.probe(probed, how_.probe_seconds));
  estimate_.rates = links_.rates(estimate_.probed, places_);
}

void Session::measure_again() {
  if (!links_.rates_change()) return;
  begin("probe");
  probe();
  restart();
  estimate_.bound.time(estimate_.rates);
}

void Session::restart() {
  for (const std::vector<Path>& paths : paths_)
    for (const Path& path : paths) path.executor->restart();
}

/// Returns whether all destination ranks of a domain can store into each other's memory.
bool Session::all_mapped_among(const plan::Domains& domains) const {
  std::int64_t unmapped = 0;
  const WorldMap map = exchange_.world();
  if (const std::optional<Rank> me = own().destination) {
    const auto domain_of = [&](Rank rank) { return domains[static_cast<std::size_t>(to_int(rank))]; };
    for (std::int32_t r = 0; r < map.destination; ++r) {
      if (Rank{r} == me || domain_of(Rank{r}) != domain_of(*me)) continue;
      if (mine_.peers == nullptr || mine_.peers->map(map.world_rank(Side::destination, Rank{r})) == nullptr) ++unmapped;
    }
  }
  return world_.sum(unmapped) == 0;
}

plan::FanOutRules Session::choose_fan_out() const {
  if (!how_.row().stores || how_.fan_out == FanOut::off) return {};
  const plan::Paths& paths = exchange_.paths;
  // What comes from elsewhere enters a domain once, whoever brings it.
  const plan::Domains near = plan::domains_of(placement_);
  const bool mapped = all_mapped_among(near);
  const bool is_wanted = how_.fan_out == FanOut::on;
  const bool all = all_mapped();
  if (is_wanted && all) return {plan::domains_of_neighbours(paths.destination.ranks(), paths.destination.ranks())};
  if (!mapped && is_wanted) {
    throw transport::CollectiveError(ErrorKind::usage,
                                     "refit.fan_out: \"on\" needs gen ranks of a host that can map each other's "
                                     "memory; here some cannot: leave it out");
  }
  if (!mapped) return {};
  const plan::FanOutRules best =
      plan::choose_fan_out(paths.bulk, paths.source, paths.destination, estimate_.rates, rules(),
                           all ? plan::Between::mapped_memory : plan::Between::messages);
  return is_wanted && best.domains.empty() ? plan::any_fan_out(placement_) : best;
}

plan::Rules Session::rules() const {
  plan::Rules rules;
  rules.fan_out = estimate_.fan_out;
  rules.colocated = exchange_.paths.colocated;
  rules.placement = placement_;
  rules.near_domains = estimate_.near_domains;
  return rules;
}

plan::Planner Session::planner() const {
  const plan::Paths& paths = exchange_.paths;
  return {paths.bulk, paths.source, paths.destination, rules()};
}

std::unique_ptr<SentWeights> Session::make_sent(const SentWeights::HasMemory& has_memory) const {
  return std::make_unique<SentWeights>(space_, world_, links_, exchange_, is_source() ? &sent_layout_ : nullptr,
                                       is_source() ? &*mine_.source : nullptr, has_memory);
}

std::unique_ptr<SentWeights> Session::make_expected() const {
  std::unique_ptr<SentWeights> expected = make_sent(all_weights);
  expected->run();
  return expected;
}

void Session::agree(const std::vector<plan::Copy>& copies) {
  together(world_, [&] {
    transport::agree(world_, exchange_.world(), copies, exchange_.model.tensors);
    transport::agree_on_stream(world_, exchange_.paths.misc, exchange_.model.tensors);
  });
}

void Session::require_stored(const std::vector<plan::Copy>& copies) const {
  const OwnRanks me = own();
  const auto require = [&](const plan::Copy& copy, Side side, const plan::End& end, const char* what) {
    const layout::LocalLayout& stored = side == Side::source ? sent_layout() : mine_.destination->layout;
    if (stored.has(end.place.storage)) return;
    fail_runtime("internal error: {} rank {} is to {} {}, of which it stores nothing [L7]",
                 side == Side::source ? "train" : "gen", to_int(*me.of(side)), what, exchange_.model[copy.tensor].name);
  };
  for (const plan::Copy& copy : copies) {
    const bool forwarded = copy.is_from_taker();
    if (plan::sends(me, copy)) require(copy, forwarded ? Side::destination : Side::source, copy.source, "send");
    if (plan::receives(me, copy)) require(copy, Side::destination, copy.destination, "receive");
  }
}

transport::Tuning Session::tuning() const {
  transport::Tuning tuning = how_.tuning;
  const std::int64_t probed = estimate_.probed.engine_bytes;
  const bool is_slower = how_.mechanism == Mechanism::automatic && probed == transport::kNoEngineBytes;
  if (!kernels::EngineTable::is_available() || how_.mechanism == Mechanism::kernel || is_slower) return tuning;
  kernels::EngineSizes& sizes = tuning.engines;
  sizes.least_bytes = kernels::kEngineBytes;
  if (probed > 0) sizes.host_bytes = probed;
  if (how_.mechanism == Mechanism::copy_engine) {
    sizes.least_bytes = sizes.least_strided_bytes = 1;
    sizes.host_bytes = 0;
  }
  return tuning;
}

std::int64_t Session::sum_of(const char* name) const {
  double mine = 0;
  for (const transport::Statistic& statistic : statistics())
    if (std::strcmp(statistic.name, name) == 0) mine += statistic.value;
  return world_.sum(static_cast<std::int64_t>(mine));
}

/// Says what copy engines do, where they do something.
void Session::note_mechanism() {
  const std::int64_t bytes = sum_of("engine_bytes");
  if (bytes == 0) return;
  const kernels::EngineSizes sizes = tuning().engines;
  note(fmt::format(
      "direct: copy engines move {:.2f} GB of {:.2f}: what goes to other GPUs in contiguous pieces from {} KiB "
      "on, or in rows with gaps from {} KiB on",
      static_cast<double>(bytes) / 1e9, static_cast<double>(estimate_.wire.bytes) / 1e9,
      ceil_div(sizes.least_bytes, 1024), ceil_div(sizes.least_strided_bytes, 1024)));
}

/// Says up to which share of changed elements each form of a delta pays.
void Session::note_delta() {
  if (how_.tuning.delta == transport::Delta::off) return;
  using kernels::DeltaForm;
  const auto share = [](DeltaForm form, std::int64_t bytes) { return 100 * transport::break_even(form, bytes); };
  note(fmt::format(
      "delta: of changed elements, index has fewer bytes than the weights below {:.1f} % (1 byte), {:.1f} % (2) and "
      "{:.1f} % (4), bitmap below {:.1f} %, {:.1f} % and {:.1f} %",
      share(DeltaForm::index, 1), share(DeltaForm::index, 2), share(DeltaForm::index, 4), share(DeltaForm::bitmap, 1),
      share(DeltaForm::bitmap, 2), share(DeltaForm::bitmap, 4)));
}

/// Makes the paths into one place of gen's storages (nullptr: this rank has none).
std::vector<Path> Session::make_paths(const std::vector<plan::Copy>& copies, const SideMemory* destination) {
  const plan::Paths& paths = exchange_.paths;
  transport::Endpoint me{own(), {}, {}};
  if (mine_.source) me.source = sent_ ? sent_->memory() : mine_.source->storages;
  if (destination != nullptr) me.destination = destination->storages;
  transport::QuantisedSends sends;
  if (sends_quantise_) sends = {&sent_->quantise(), &paths.destination};
  std::vector<Path> result;
  for (const Part& part : parts_) {
    result.push_back(
        {kBulk,
         how_.row().make({space_, world_, links_, *routes_, me, part.tensors, paths.source, paths.destination,
                          part.of(copies), mine_.peers, sends, tuning(), ring_, progress_}),
         part.name, part.is_paused});
  }
  if (gather_ == nullptr && stream_ == nullptr) return result;
  const bool is_paused = stages() && !std::ranges::all_of(paths.misc, [this](const model::Tensor& tensor) {
                           return mine_.staged->has(tensor);
                         });
  result.push_back({kMisc,
                    transport::make_misc(space_, gather_.get(), stream_.get(), me, paths.misc, paths.source,
                                         paths.destination, placement_, how_.misc_buffer_bytes, how_.tuning, progress_),
                    how_.commit == Commit::layers ? kMisc : "", is_paused});
  return result;
}

void Session::make_executors(const std::vector<plan::Copy>& copies) {
  parts_ = make_parts(exchange_, how_.commit, mine_.staged);
  transport::Endpoint me{own(), {}, {}};
  std::int64_t ring_bytes = 0;
  for (const Part& part : parts_)
    ring_bytes = std::max(ring_bytes, how_.row().ring_bytes(*routes_, me, part.of(copies), how_.tuning));
  ring_ = std::make_shared<transport::Ring>(ring_bytes);
  const SideMemory* first = mine_.destination ? &*mine_.destination : nullptr;
  paths_.push_back(make_paths(copies, first));
  if (stages()) paths_.push_back(make_paths(copies, mine_.second ? &*mine_.second : nullptr));
}

/// Lets pairs of ranks connect before the first refit, where they are known to agree on what they exchange.
void Session::connect() {
  if (!how_.check_agreement) return;
  begin("connect");
  const double start = now();
  together(world_, [&] {
    for (const std::vector<Path>& paths : paths_)
      for (const Path& path : paths) path.executor->connect();
  });
  connect_seconds_ = now() - start;
}

/// Returns the communicators in which this rank has a part.
std::vector<transport::Communicator*> Session::all_communicators() const {
  std::vector<transport::Communicator*> all{gather_.get(), stream_.get()};
  for (const auto& communicator : communicators_) all.push_back(communicator.get());
  std::erase(all, nullptr);
  return all;
}

/// Registers all memory of the messages of refits: with all communicators of all ranks or with none.
void Session::register_memory() {
  if (!how_.registers_memory) return;
  transport::MemoryList memory;
  for (const std::vector<Path>& paths : paths_)
    for (const Path& path : paths) std::ranges::copy(path.executor->staging(), std::back_inserter(memory));
  for (const std::optional<SideMemory>* side : {&mine_.source, &mine_.destination, &mine_.second})
    if (*side) memory.push_back((*side)->arena);
  if (sent_ && !sent_->arena().empty()) memory.push_back(sent_->arena());
  bool registered = true;
  for (transport::Communicator* communicator : all_communicators()) registered &= communicator->register_memory(memory);
  if (world_.sum(registered ? 0 : std::int64_t{1}) == 0) return;
  for (transport::Communicator* communicator : all_communicators()) communicator->register_memory({});
  note("NCCL cannot register the memory of all ranks: it copies through buffers of its own");
}

std::int64_t Session::next_number() const {
  std::int64_t last = 0;
  for (const Version& version : sent_versions_) last = std::max(last, version.number);
  return last + 1;
}

const Version& Session::held() const {
  return is_source() && !own().destination ? sent_versions_[static_cast<std::size_t>(brought())]
                                           : held_versions_[static_cast<std::size_t>(live_)];
}

/// What lost one place lost the other, too: the next delta must not stand on it.
void Session::set_held(const Version& version) {
  held_versions_ = {};
  held_versions_[static_cast<std::size_t>(live_)] = version;
}

Session::Versions Session::versions() const {
  const auto live = static_cast<std::size_t>(live_);
  return {sent_versions_[live], held_versions_[live]};
}

void Session::set_versions(const Versions& versions) {
  const auto live = static_cast<std::size_t>(live_);
  sent_versions_[live] = versions.sent;
  held_versions_[live] = versions.held;
}

void Session::set_proved(const Sum128& weights) {
  const auto place = static_cast<std::size_t>(brought());
  for (std::array<Version, 2>* versions : {&sent_versions_, &held_versions_})
    if ((*versions)[place].exists()) (*versions)[place].weights = weights;
}

/// Collective.
Roll Session::call_roll(std::int64_t asked, int place) const {
  const auto at = static_cast<std::size_t>(place);
  return {world_,
          exchange_.world(),
          {asked,
           {sent_versions_[at].number, sent_versions_[at].plan},
           {held_versions_[at].number, held_versions_[at].plan}}};
}

void Session::require_version(std::int64_t number) {
  const std::vector<Missed> missed = call_roll(number, live_).missed({number, plan_hash_});
  if (missed.empty()) return;
  throw transport::CollectiveError(
      ErrorKind::data, fmt::format("gen does not hold version {} everywhere: {}", number, to_string(missed)));
}

template <typename Seconds>
void Session::run(int place, bool paused, Seconds& seconds) {
  double last = now();
  const std::vector<Path>& paths = paths_[static_cast<std::size_t>(place)];
  for (std::size_t at = 0; at < paths.size(); ++at) {
    const Path& path = paths[at];
    if (path.is_paused != paused) continue;
    progress_.at(path.name);
    path.executor->execute();
    const double end = now();
    (std::string_view(path.name) == kBulk ? seconds.bulk : seconds.misc) += end - last;
    trace(path.name, last, end);
    // What is not staged lies in one place alone: the other place's executor no longer knows what it holds.
    if (path.is_paused) paths_[static_cast<std::size_t>(1 - place)][at].executor->restart();
    if constexpr (requires { seconds.parts; }) {
      if (!path.part.empty()) seconds.parts.emplace_back(path.part, end - last);
    }
    last = end;
  }
}

RefitSeconds Session::refit(const std::function<void()>& finalise, std::optional<std::int64_t> number) {
  target_ = stages() ? 1 - live_ : 0;
  const auto place = static_cast<std::size_t>(target_);
  progress_.at("barrier");
  const Roll roll = call_roll(number.value_or(next_number()), target_);
  const Version version{roll.number(), plan_hash_};
  const Version base = roll.sent();
  missed_ = base.exists() ? roll.missed(base) : std::vector<Missed>();
  if (!missed_.empty())
    for (const Path& path : paths_[place]) path.executor->restart();
  // Until all of it has arrived, this place holds parts of two versions.
  held_versions_[place] = sent_versions_[place] = {};
  is_staged_ = false;

  if (progress_.trace() != nullptr) progress_.trace()->prepare(space_);
  world_.barrier();
  if (progress_.trace() != nullptr) progress_.trace()->start();
  RefitSeconds seconds;
  const double start = now();
  if (mine_.adapt) {
    progress_.at("adapt");
    mine_.adapt();
  }
  seconds.adapt = now() - start;
  trace("adapt", start, start + seconds.adapt);
  if (quantises_first()) {
    progress_.at("quantise");
    seconds.reduce = sent_->run(keeps_magnitudes_ && keeps_magnitudes_());
  }
  seconds.quantise = now() - start - seconds.adapt;
  if (quantises_first()) trace("quantise", start + seconds.adapt, start + seconds.adapt + seconds.quantise);
  run(target_, false, seconds);
  const double last = now();
  const bool is_complete = !stages() || stages_everything();
  if (is_complete && finalise) {
    progress_.at("finalize");
    finalise();
  }
  const double end = now();
  seconds.finalise = end - last;
  seconds.total = end - start;
  trace("finalize", last, end);
  if (progress_.trace() != nullptr) progress_.trace()->finish();
  is_staged_ = stages();
  if (is_source()) sent_versions_[place] = version;
  if (own().destination) held_versions_[place] = version;
  return seconds;
}

FlipSeconds Session::flip(const std::function<void()>& finalise) {
  if (!is_staged_) fail_usage("flip: no refit has been staged since the last flip");
  is_staged_ = false;
  progress_.at("barrier");
  if (progress_.trace() != nullptr) progress_.trace()->prepare(space_);
  world_.barrier();
  if (progress_.trace() != nullptr) progress_.trace()->start();
  FlipSeconds seconds;
  const double start = now();
  world_.barrier();  // gen ranks stop to wait for each other here: this is a part of the pause
  if (!stages_everything()) {
    // Until all of it has arrived, gen has parts of two versions.
    const Version left = std::exchange(held_versions_[static_cast<std::size_t>(live_)], {});
    run(target_, true, seconds);
    held_versions_[static_cast<std::size_t>(live_)] = left;
    const double last = now();
    progress_.at("finalize");
    if (finalise) finalise();
    seconds.finalise = now() - last;
    trace("finalize", last, last + seconds.finalise);
  }
  live_ = target_;
  seconds.total = now() - start;
  if (progress_.trace() != nullptr) progress_.trace()->finish();
  return seconds;
}

std::int64_t Session::staging_bytes() const {
  std::int64_t bytes = sent_ ? std::ssize(sent_->arena()) : 0;
  std::set<const std::byte*> seen;  // executors share the ring
  for (const std::vector<Path>& paths : paths_) {
    for (const Path& path : paths) {
      for (const std::span<std::byte> part : path.executor->staging())
        if (!part.empty() && seen.insert(part.data()).second) bytes += std::ssize(part);
    }
  }
  return bytes;
}

std::int64_t Session::kept_bytes() const {
  std::int64_t bytes = 0;
  for (const std::vector<Path>& paths : paths_) {
    for (const Path& path : paths) {
      for (const transport::Statistic& statistic : path.executor->statistics())
        if (std::string_view(statistic.name) == transport::kKeptBytes)
          bytes += static_cast<std::int64_t>(statistic.value);
    }
  }
  return bytes;
}

transport::Schedule Session::schedule() const {
  transport::Schedule schedule;
  for (const Path& path : paths_.front()) schedule = schedule + path.executor->schedule();
  return schedule;
}

std::vector<transport::Statistic> Session::statistics() const {
  std::vector<transport::Statistic> sums;
  for (const Path& path : paths_[static_cast<std::size_t>(brought())]) {
    if (std::string_view(path.name) != kBulk) continue;
    const std::vector<transport::Statistic> of_part = path.executor->statistics();
    if (sums.empty())
      sums = of_part;
    else
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i].value += of_part[i].value;
  }
  return sums;
}

std::vector<verify::RankView> Session::views() const {
  const OwnRanks me = own();
  std::vector<verify::RankView> views;
  if (me.source) {
    const transport::LocalMemory& sent = sent_ ? sent_->memory() : mine_.source->storages;
    views.push_back({Group::train, *me.source, &sent_layout(), sent.storages()});
  }
  if (me.destination)
    views.push_back({Group::gen, *me.destination, &mine_.destination->layout, mine_.destination->storages.storages()});
  return views;
}

}  // namespace refit::session
