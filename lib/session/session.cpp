#include "session/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "core/clock.hpp"
#include "plan/stream.hpp"
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

bool may_quantise_as_it_sends(const Exchange& exchange, const How& how) {
  return exchange.quantised && how.row().stores && how.quantises_as_it_sends &&
         quantiser_of(exchange.model.quantisation.format, exchange.quantised->library);
}

}  // namespace

std::int64_t staging_bytes(const Exchange& exchange, const How& how, const OwnRanks& own, Mapped mapped) {
  const plan::Paths& paths = exchange.paths;
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
  if (own.destination || own.source == Rank{0}) bytes += 2 * misc_buffer;
  if (own.source && misc > 0) {
    const transport::Tuning gather = transport::gather_tuning(how.tuning, paths.source.stages(), misc_buffer);
    bytes += std::min(transport::ring_bytes(gather), gather.ring_chunks * misc_buffer);
  }
  if (own.source) {
    const layout::Layout& stored = exchange.quantised ? exchange.quantised->train : paths.source;
    moved += arena_bytes(stored, *own.source) * paths.destination.ranks();
  }
  if (own.destination) moved += arena_bytes(paths.destination, *own.destination);
  return bytes + how.row().staging_bytes(how.tuning, moved);
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
  estimate_.bound = plan::lower_bound(exchange_.model.tensors, exchange_.paths.source, exchange_.paths.destination,
                                      estimate_.rates, placement_);
  estimate_.fan_out_ranks = choose_fan_out();
  double start = now();
  std::vector<plan::Copy> copies;
  together(world_, [&] { copies = planner().rank_plan(own()).copies; });
  plan_seconds_ = now() - start;
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
  if (decorators.paths) decorators.paths(paths_);
  keeps_magnitudes_ = decorators.keeps_magnitudes;
  register_memory();
  plan_seconds_ += now() - start;
  note_mechanism();

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
  estimate_.bound.time(estimate_.rates);
}

std::int64_t Session::choose_fan_out() const {
  if (!how_.row().stores || how_.fan_out == FanOut::off) return 0;
  const bool mapped = all_mapped();
  if (how_.fan_out == FanOut::on && !mapped) {
    throw transport::CollectiveError(ErrorKind::usage,
                                     "refit.fan_out: \"on\" needs ranks that can map each other's memory; here "
                                     "some cannot, see refit.executor = \"direct\" without it");
  }
  const plan::Paths& paths = exchange_.paths;
  if (how_.fan_out == FanOut::on) return paths.destination.ranks();
  if (!mapped) return 0;
  return plan::choose_fan_out(paths.bulk, paths.source, paths.destination, estimate_.rates,
                              {.colocated = paths.colocated, .placement = placement_});
}

plan::Planner Session::planner() const {
  const plan::Paths& paths = exchange_.paths;
  return {paths.bulk,
          paths.source,
          paths.destination,
          {.domain_ranks = estimate_.fan_out_ranks, .colocated = paths.colocated, .placement = placement_}};
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
    const bool forwarded = copy.fan_out == plan::FanOut::forwarded;
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

/// Returns the sum over all ranks of a statistic of the bulk path's executor; 0: it has none of that name.
std::int64_t Session::sum_of(const char* name) const {
  double mine = 0;
  for (const transport::Statistic& statistic : bulk().statistics())
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

void Session::make_executors(const std::vector<plan::Copy>& copies) {
  const plan::Paths& paths = exchange_.paths;
  transport::Endpoint me{own(), {}, {}};
  if (mine_.source) me.source = sent_ ? sent_->memory() : mine_.source->storages;
  if (mine_.destination) me.destination = mine_.destination->storages;
  transport::QuantisedSends sends;
  if (sends_quantise_) sends = {&sent_->quantise(), &paths.destination};
  paths_.push_back({kBulk, how_.row().make({space_, world_, links_, *routes_, me, paths.bulk, paths.source,
                                            paths.destination, copies, mine_.peers, sends, tuning(), progress_})});
  if (gather_ == nullptr && stream_ == nullptr) return;
  paths_.push_back({kMisc, transport::make_misc(space_, gather_.get(), stream_.get(), me, paths.misc, paths.source,
                                                paths.destination, how_.misc_buffer_bytes, how_.tuning, progress_)});
}

/// Lets pairs of ranks connect before the first refit, where they are known to agree on what they exchange.
void Session::connect() {
  if (!how_.check_agreement) return;
  begin("connect");
  const double start = now();
  together(world_, [&] {
    for (const Path& path : paths_) path.executor->connect();
  });
  connect_seconds_ = now() - start;
}

const transport::Executor& Session::bulk() const {
  return *std::ranges::find(paths_, std::string_view(kBulk), &Path::name)->executor;
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
  for (const Path& path : paths_) std::ranges::copy(path.executor->staging(), std::back_inserter(memory));
  for (const Side side : {Side::source, Side::destination})
    if (mine_.of(side)) memory.push_back(mine_.of(side)->arena);
  if (sent_ && !sent_->arena().empty()) memory.push_back(sent_->arena());
  bool registered = true;
  for (transport::Communicator* communicator : all_communicators()) registered &= communicator->register_memory(memory);
  if (world_.sum(registered ? 0 : std::int64_t{1}) == 0) return;
  for (transport::Communicator* communicator : all_communicators()) communicator->register_memory({});
  note("NCCL cannot register the memory of all ranks: it copies through buffers of its own");
}

RefitSeconds Session::refit(const std::function<void()>& finalise, const std::function<void()>& adapt) {
  progress_.at("barrier");
  world_.barrier();
  RefitSeconds seconds;
  const double start = now();
  double last = start;
  if (adapt) {
    progress_.at("adapt");
    adapt();
    last = now();
    seconds.adapt = last - start;
  }
  if (quantises_first()) {
    progress_.at("quantise");
    seconds.reduce = sent_->run(keeps_magnitudes_ && keeps_magnitudes_());
  }
  seconds.quantise = now() - last;
  last += seconds.quantise;
  for (const Path& path : paths_) {
    progress_.at(path.name);
    path.executor->execute();
    const double end = now();
    (std::string_view(path.name) == kBulk ? seconds.bulk : seconds.misc) = end - last;
    last = end;
  }
  progress_.at("finalize");
  if (finalise) finalise();
  const double end = now();
  seconds.finalise = end - last;
  seconds.total = end - start;
  return seconds;
}

std::int64_t Session::staging_bytes() const {
  std::int64_t bytes = sent_ ? std::ssize(sent_->arena()) : 0;
  for (const Path& path : paths_) bytes += path.executor->staging_bytes();
  return bytes;
}

transport::Schedule Session::schedule() const {
  transport::Schedule schedule;
  for (const Path& path : paths_) schedule = schedule + path.executor->schedule();
  return schedule;
}

std::vector<transport::Statistic> Session::statistics() const { return bulk().statistics(); }

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
