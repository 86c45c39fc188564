#include "engine/job.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>

#include "core/hash.hpp"
#include "engine/describe.hpp"
#include "engine/host_memory.hpp"
#include "engine/notes.hpp"
#include "engine/together.hpp"
#include "engine/totals.hpp"
#include "plan/stream.hpp"
#include "transport/p2p.hpp"

namespace refit::engine {
namespace {

/// Seconds that the probe before a run spends per rate.
constexpr double kProbeSeconds = 0.02;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<int> iota(int begin, int count) {
  std::vector<int> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), begin);
  return values;
}

/// One line on rank 0's log when a long load has gone on for another second.
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

bool all_weights(const model::Tensor& /*weight*/) { return true; }

/// Hash of everything that all ranks must have in common about a tensor.
std::uint64_t input_hash(const model::Tensor& tensor) {
  std::uint64_t hash = combine(hash_name(tensor.name), static_cast<std::uint64_t>(tensor.dtype));
  for (std::int64_t extent : tensor.shape) hash = combine(hash, static_cast<std::uint64_t>(extent));
  return hash;
}

}  // namespace

Job::Job(transport::MpiSession& session, transport::Control& world, const kernels::ExecutionSpace& space,
         const Setup& setup, const Places& places, transport::Progress& progress)
    : session_(session),
      world_(world),
      space_(space),
      setup_(setup),
      places_(places),
      progress_(progress),
      limits_(limits_of(setup.c)),
      distorted_train_(setup.faults.distort_train(setup.sent(), setup.model)),
      distorted_gen_(setup.faults.distort_gen(*setup.gen, setup.model)) {
  for (const model::Tensor& tensor : setup.split.bulk) {
    if (!setup.faults.drops(setup.model, tensor)) bulk_.push_back(tensor);
  }
  for (const model::Tensor& tensor : setup.faults.misc_stream(setup.model, is_train(), bulk_, setup.split.misc)) {
    if (!setup.faults.drops(setup.model, tensor)) misc_.push_back(tensor);
  }
}

/// The executors' memory goes before the communicators that it is registered with.
Job::~Job() {
  for (transport::Communicator* communicator : all_communicators()) communicator->register_memory({});
}

void Job::prepare(report::Result& result) {
  begin("prepare");
  require_same_inputs();
  together(world_, [&] {
    local_ = layout::materialise(is_train() ? *setup_.train : *setup_.gen, setup_.model.tensors, rank());
    if (!setup_.quantised || !is_train()) return;
    sent_layout_ = layout::materialise(*setup_.quantised, setup_.model.tensors, rank());
  });
  host_bytes_ = world_.max(transport::ArenaMap(local_).bytes) * world_.max(std::int64_t{session_.node_size()});
  allocate();
  // Injected bugs tell lies about the copies of bytes and of scales, so they stay apart there.
  sends_quantise_ =
      setup_.quantised && setup_.c.refit.executor == ExecutorKind::direct && !setup_.faults.any() && all_mapped();
  make_communicators(result);
  measure(result);
  load(result);
  if (has_cache_scales()) make_cache_scales(result);
  if (setup_.quantised) sent_ = make_sent(staged(sends_quantise_));
  make_plan(result);
  begin("verify");
  std::vector<verify::Constant> constants;
  together(world_, [&] {
    if (session_.rank() != 0) return;
    for (const model::Tensor& tensor : setup_.split.from_checkpoint) {
      constants.push_back(
          {tensor.index, source_fingerprint(space_, setup_, tensor, setup_.gen->format(tensor)->dtype)});
    }
  });
  verifier_ =
      std::make_unique<verify::Verifier>(setup_.model, setup_.sent(), *setup_.gen, sent_view(), world_, space_,
                                         static_cast<std::uint64_t>(setup_.c.run.seed), std::move(constants),
                                         originals(), verify::Tuning{.count_seconds = setup_.c.run.count_seconds});
  not_finite_ = verifier_->not_finite(verify::Group::train);
  say(not_finite_notes(setup_, not_finite_), result);
  for (const auto& odd : verifier_->check_train_holders()) {
    const std::string text =
        fmt::format("train rank {} holds other bits of {} {} than its replicas, before the first refit",
                    to_int(odd.train_rank), odd.tensor, to_string(odd.box));
    if (session_.rank() == 0) spdlog::error("{}", text);
    result.notes.push_back(text);
    if (setup_.c.run.verify == Verify::off) throw CollectiveError(ErrorKind::data, text);
  }
}

/// Every rank read case, config and checkpoint headers itself: all must have read the same.
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

std::unique_ptr<transport::Communicator> Job::make_communicator(const std::vector<int>& members, int tag,
                                                                std::int64_t lanes) const {
  const bool member = std::find(members.begin(), members.end(), session_.rank()) != members.end();
  const int count = static_cast<int>(lanes);
  const transport::Waiting waiting(&progress_);
  if (!kernels::Runtime::has_device()) return member ? transport::make_mpi_communicator(members, tag, count) : nullptr;
  const std::unique_ptr<transport::Control> control = world_.split(member ? 0 : -1);
  if (!member) return nullptr;
  return transport::make_nccl_communicator(*control, count, setup_.c.run.timeout_seconds);
}

std::unique_ptr<transport::Communicator> Job::make_bulk_communicator(const std::vector<int>& members, int tag,
                                                                     std::int64_t lanes) const {
  std::unique_ptr<transport::Communicator> truth = make_communicator(members, tag, lanes);
  return is_train() ? std::move(truth) : setup_.faults.distort_bulk(std::move(truth), weights_->arena());
}

void Job::make_communicators(report::Result& result) {
  const int train_ranks = setup_.train->ranks();
  const int gen_ranks = setup_.gen->ranks();
  const std::vector<int> gen = iota(train_ranks, gen_ranks);
  int tag = 0;
  // The world's communicator serves the executors with a single one, and on hosts the probe. Devices that all map each
  // other's memory need none for `direct`.
  const bool direct = setup_.c.refit.executor == ExecutorKind::direct;
  const bool device = kernels::Runtime::has_device();
  const bool needed = !device || !direct || !all_mapped();
  if (device && (needed || !setup_.split.misc.empty())) {
    if (setup_.c.refit.executor == ExecutorKind::m2n) transport::prepare_nccl_m2n(world_);
    const std::string note = transport::prepare_nccl(world_);
    if (!note.empty()) result.notes.push_back(note);
    if (!note.empty() && session_.rank() == 0) spdlog::warn("{}", note);
  }
  const std::int64_t streams = setup_.c.refit.streams;
  communicators_.push_back(needed ? make_bulk_communicator(iota(0, train_ranks + gen_ranks), tag, streams) : nullptr);
  ++tag;
  std::vector<transport::Communicator*> route{communicators_.front().get()};
  if (setup_.c.refit.communicators == Communicators::per_stage) {
    route.clear();
    const int per_stage = train_ranks / setup_.train->stages();
    const bool takes_turns = setup_.c.refit.executor == ExecutorKind::p2p;
    const std::int64_t lanes = takes_turns ? transport::lanes_of_stage(streams, setup_.train->stages()) : streams;
    for (int stage = 0; stage < setup_.train->stages(); ++stage, ++tag) {
      std::vector<int> members = iota(stage * per_stage, per_stage);
      members.insert(members.end(), gen.begin(), gen.end());
      communicators_.push_back(make_bulk_communicator(members, tag, lanes));
      route.push_back(communicators_.back().get());
    }
  }
  if (!misc_.empty()) {
    std::vector<int> stream = gen;
    stream.insert(stream.begin(), 0);
    gather_ = make_communicator(iota(0, train_ranks), tag, streams);
    stream_ = make_communicator(stream, tag + 1, 1);  // broadcasts
    if (!is_train() && setup_.faults.any()) {
      const plan::StreamLayout layout(misc_, sent_by_train(), setup_.c.refit.misc_buffer_bytes);
      stream_ = setup_.faults.distort_stream(std::move(stream_), layout.buffers());
    }
  }
  routes_ = std::make_unique<transport::Routes>(*setup_.train, std::move(route), train_ranks);
}

/// Whether every rank can store into every gen rank's memory.
bool Job::all_mapped() const {
  std::int64_t unmapped = 0;
  for (int g = 0; g < setup_.gen->ranks(); ++g) {
    if (peers_->map(setup_.train->ranks() + g) == nullptr) ++unmapped;
  }
  return world_.sum(unmapped) == 0;
}

/// As a probe of hosts imitates it. Collective.
ProbedRun Job::probed_run() const {
  const std::int64_t arena = transport::ArenaMap(local_).bytes;
  ProbedRun run{setup_.train->ranks(), world_.sum(is_train() ? std::int64_t{0} : arena),
                world_.max(is_train() ? arena : std::int64_t{0})};
  if (bulk_.empty()) return run;
  run.from = setup_.sent().format(bulk_.front())->dtype;
  run.to = setup_.gen->format(bulk_.front())->dtype;
  return run;
}

/// What the probes of this job's machines say, as the cost model takes it; also put into `result`.
plan::Rates Job::probe(report::Result& result) {
  const bool device = kernels::Runtime::has_device();
  constexpr std::int64_t kNone = -(std::int64_t{1} << 62);
  const std::int64_t smallest = -world_.max(is_train() ? kNone : -transport::ArenaMap(local_).bytes);  // of gen
  const auto lanes = static_cast<int>(setup_.c.refit.streams);
  transport::Communicator* communicator = communicators_.front().get();
  const std::int32_t train_ranks = setup_.train->ranks();
  rates_ = best_of(
      rates_, device ? measure_device_rates(space_, world_, peers_.get(), communicator, lanes, places_, train_ranks,
                                            smallest, kProbeSeconds)
                     : measure_rates(space_, world_, *communicator, lanes, places_, probed_run(), kProbeSeconds));
  result.rates.clear();
  for (const auto& [name, value] : {std::pair("pair", rates_.pair),
                                    {"pair_message", rates_.pair_message},
                                    {"all_pairs", rates_.all_pairs},
                                    {"pair_store", rates_.pair_store},
                                    {"pair_engine", rates_.pair_engine},
                                    {"all_stores", rates_.all_stores},
                                    {"network", rates_.network},
                                    {"memory", rates_.memory}}) {
    if (value > 0) result.rates.emplace_back(name, value);
  }
  return device ? device_rates(rates_, places_.ranks_per_device()) : host_rates(rates_);
}

std::int64_t Job::choose_fan_out(const plan::Rates& rates) const {
  const FanOut wanted = setup_.c.refit.fan_out;
  if (setup_.c.refit.executor != ExecutorKind::direct || wanted == FanOut::off) return 0;
  const bool mapped = all_mapped();
  if (wanted == FanOut::on && !mapped) {
    throw CollectiveError(ErrorKind::usage,
                          "refit.fan_out: \"on\" needs ranks that can map each other's memory; here "
                          "some cannot, see refit.executor = \"direct\" without it");
  }
  if (wanted == FanOut::on) return setup_.gen->ranks();
  if (!mapped) return 0;
  return plan::choose_fan_out(bulk_, sent_by_train(), gen_layout(), rates, places_.placement(setup_.train->ranks()));
}

void Job::measure(report::Result& result) {
  begin("probe");
  if (session_.rank() == 0) spdlog::info("probing links and memory");
  const plan::Rates rates = probe(result);
  bound_ = plan::lower_bound(setup_.model.tensors, setup_.sent(), *setup_.gen, rates,
                             places_.placement(setup_.train->ranks()));
  result.bound = to_report(bound_, true);

  fan_out_ranks_ = choose_fan_out(rates);
  const double start = now();
  together(world_, [&] { copies_ = planner().rank_plan(side(), rank()).copies; });
  plan_seconds_ = now() - start;
  const Paths paths{bulk_, misc_, sent_by_train(), gen_layout()};
  const Totals totals =
      totals_of(world_, setup_.c.refit, paths, copies_, plan::Machine{rates, places_.placement(setup_.train->ranks())});
  result.wire = totals.wire;
  result.model_seconds = totals.model;
  if (!setup_.c.output.hdf5.empty()) result.byte_matrix = gather_byte_matrix(world_, setup_.c.refit, paths, copies_);
}

void Job::measure_again(report::Result& result) {
  if (kernels::Runtime::has_device()) return;
  begin("probe");
  bound_.time(probe(result));
  result.bound = to_report(bound_, true);
}

transport::Tuning Job::knobs() const {
  const auto& c = setup_.c.refit;
  transport::Tuning tuning;
  tuning.streams = c.streams;
  tuning.group_size = c.group_size;
  tuning.chunk_bytes = c.chunk_bytes;
  tuning.ring_chunks = c.ring_chunks;
  return tuning;
}

/// The most that the paths' buffers take on this rank.
std::int64_t Job::staging_estimate() const {
  const auto& c = setup_.c.refit;
  const std::int64_t misc = misc_stream_bytes(setup_.split.misc, setup_.sent());
  // Verification has all that is sent in memory at a time.
  const bool one_host = session_.node_size() == session_.size();
  const bool sends_quantise = c.executor == ExecutorKind::direct && one_host && setup_.c.run.verify == Verify::off;
  std::int64_t bytes = SentWeights::bytes(setup_, sent_layout_, staged(sends_quantise));
  const std::int64_t misc_buffer = std::min(c.misc_buffer_bytes, misc);
  if (!is_train() || session_.rank() == 0) bytes += 2 * misc_buffer;
  if (is_train() && misc > 0)
    bytes += transport::ring_bytes(transport::gather_tuning(knobs(), setup_.train->stages(), misc_buffer));
  // Chunks of a ring are no more and no longer than a rank's messages, which go to every gen rank at most.
  const std::int64_t moved = transport::ArenaMap(local_).bytes * (is_train() ? setup_.gen->ranks() : 1);
  if (c.executor == ExecutorKind::p2p || c.executor == ExecutorKind::m2n)
    bytes += std::min(transport::ring_bytes(knobs()), c.ring_chunks * moved);
  if (c.executor == ExecutorKind::m2n) bytes += 2 * c.streams * knobs().reshard_group_bytes;
  if (c.executor == ExecutorKind::golden) bytes += c.streams * knobs().golden_part_bytes;
  return bytes;
}

void Job::allocate() {
  begin("allocate");
  const std::int64_t bytes = transport::ArenaMap(local_).bytes;
  const bool shared = setup_.c.refit.executor == ExecutorKind::direct;
  if (kernels::Runtime::has_device()) return allocate_on_device(bytes);
  // A shared window's pages are main memory too.
  require_memory(world_, places_.hosts[static_cast<std::size_t>(session_.rank())], bytes + staging_estimate(),
                 "use fewer layers (--layers), a -small model, or more hosts; of the executors direct needs least: no "
                 "staging memory beside the weights");
  if (shared) {
    together(world_, [&] { peers_ = make_peer_memory(is_train() ? 0 : bytes); });
  }
  together(world_, [&] {
    if (is_train() || !shared) arena_ = std::make_unique<Arena>(bytes);
    place_weights(arena_ ? arena_->data() : peers_->local());
  });
}

/// Collective over the world.
std::unique_ptr<transport::PeerMemory> Job::make_peer_memory(std::int64_t bytes) {
  const transport::Waiting waiting(&progress_);
  std::unique_ptr<transport::PeerMemory> truth;
  if (kernels::Runtime::has_device()) {
    std::unique_ptr<transport::CudaPeerMemory> peers = transport::make_cuda_peer_memory(world_, bytes);
    peers_note_ = peers->note();
    truth = std::move(peers);
  } else {
    truth = transport::make_mpi_peer_memory(bytes);
  }
  return setup_.faults.distort_peers(std::move(truth), session_.rank());
}

/// Gen's arenas are mapped by train ranks whatever the executor: the probe stores into them.
void Job::allocate_on_device(std::int64_t bytes) {
  peers_ = make_peer_memory(is_train() ? 0 : bytes);
  together(world_, [&] {
    if (is_train()) device_arena_ = std::make_unique<transport::DeviceArena>(bytes);
    place_weights(is_train() ? device_arena_->data() : peers_->local());
  });
}

void Job::place_weights(std::byte* arena) {
  weights_ =
      std::make_unique<Weights>(setup_, local_, is_train() ? verify::Group::train : verify::Group::gen, rank(), arena);
}

void Job::load(report::Result& result) {
  progress_.begin("load", limits_.phase(host_bytes_), true);
  if (session_.rank() == 0) spdlog::info("loading {}", setup_.source());
  world_.barrier();
  const double start = now();
  Loaded loaded;
  together(world_, [&] {
    LoadProgress report;
    loaded = weights_->load(space_, [&](std::int64_t done, std::int64_t all) {
      progress_.moved(done);
      if (session_.rank() == 0) report(done, all);
    });
  });
  const checkpoint::ReadStatistics& statistics = loaded.statistics;
  result.prepare.emplace_back("load", world_.max(now() - start));
  result.load = report::Load{world_.sum(statistics.bytes_read), world_.sum(statistics.bytes_needed)};
  say(rounding_notes(setup_, world_, loaded.rounded), result);
}

void Job::say(const std::vector<std::string>& notes, report::Result& result) const {
  if (session_.rank() != 0) return;
  for (const std::string& note : notes) {
    spdlog::warn("{}", note);
    result.notes.push_back(note);
  }
}

std::unique_ptr<SentWeights> Job::make_sent(const SentWeights::HasMemory& has_memory) const {
  return std::make_unique<SentWeights>(space_, world_, setup_, is_train() ? &sent_layout_ : nullptr,
                                       is_train() ? &local_ : nullptr, *weights_, has_memory);
}

/// Collective.
void Job::make_cache_scales(report::Result& result) {
  std::string text;
  together(world_, [&] {
    if (is_train() && session_.rank() != 0) return;
    cache_scales_ = std::make_unique<CacheScales>(space_, setup_, local_, weights_->memory());
    if (is_train()) text = cache_scales_->describe();
  });
  if (session_.rank() != 0) return;
  spdlog::info("{}", text);
  result.notes.push_back(text);
}

SentWeights::HasMemory Job::staged(bool sends_quantise) const {
  if (!sends_quantise) return all_weights;
  std::set<std::int32_t> misc;
  for (const model::Tensor& tensor : misc_) misc.insert(tensor.index);
  return [misc](const model::Tensor& weight) { return misc.contains(weight.index); };
}

verify::RankView Job::sent_view() const {
  verify::RankView view = weights_->view();
  if (!sent_ || !is_train()) return view;
  return {view.group, view.rank, &sent_layout_, sent_->memory().storages()};
}

std::optional<verify::Originals> Job::originals() const {
  if (!sent_) return std::nullopt;
  return verify::Originals{setup_.train.get(), is_train() ? weights_->view() : verify::RankView()};
}

void Job::make_plan(report::Result& result) {
  begin("plan");
  const double start = now();
  std::vector<plan::Copy> copies = std::move(copies_);
  together(world_, [&] {
    const Rank as = setup_.faults.plans_as(is_train(), rank());
    if (as != rank()) copies = planner().rank_plan(side(), as).copies;
    require_stored(copies);
    setup_.faults.distort_copies(setup_.model, is_train(), copies);
  });
  if (setup_.c.refit.check_agreement) {
    together(world_, [&] {
      transport::agree(world_, side(), rank(), setup_.train->ranks(), copies, setup_.model.tensors);
      transport::agree_on_stream(world_, misc_, setup_.model.tensors);
    });
  }
  if (setup_.c.refit.executor == ExecutorKind::m2n) {
    together(world_, [&] {
      resharding_ = plan::make_reshards(bulk_, sent_by_train(), gen_layout());
      result.m2n = to_report(resharding_, setup_.model, bulk_, sent_by_train(), gen_layout());
    });
  }
  make_executors(copies);
  register_memory(result);
  result.prepare.emplace_back("plan", world_.max(plan_seconds_ + now() - start));

  const std::int64_t staging = bulk_executor_->staging_bytes() +
                               (misc_executor_ ? misc_executor_->staging_bytes() : 0) +
                               (sent_ ? std::ssize(sent_->arena()) : 0);
  const std::int64_t arena = transport::ArenaMap(local_).bytes;
  result.memory = report::Memory{world_.max(is_train() ? arena : std::int64_t{0}),
                                 world_.max(is_train() ? std::int64_t{0} : arena), world_.max(staging)};
  transport::Schedule schedule = bulk_executor_->schedule();
  if (misc_executor_) schedule = schedule + misc_executor_->schedule();
  result.schedule = report::Schedule{world_.max(schedule.groups), world_.max(schedule.operations),
                                     world_.max(schedule.serial_groups)};
  const std::int64_t unmapped = world_.sum(bulk_executor_->unmapped_peers());
  if (unmapped > 0)
    result.notes.push_back(fmt::format("direct: {} pairs of ranks cannot map each other's memory and use p2p{}{}",
                                       unmapped / 2, peers_note_.empty() ? "" : ": ", peers_note_));
  if (unmapped > 0 && session_.rank() == 0) spdlog::warn("{}", result.notes.back());
}

void Job::require_stored(const std::vector<plan::Copy>& copies) const {
  const layout::LocalLayout& mine = sent_ && is_train() ? sent_layout_ : local_;
  for (const plan::Copy& copy : copies) {
    const bool sends = is_train() || (copy.fan_out == plan::FanOut::forwarded && copy.source.rank == rank());
    if (mine.has((sends ? copy.source : copy.destination).place.storage)) continue;
    fail_runtime("internal error: {} rank {} is to {} {}, of which it stores nothing [L7]",
                 is_train() ? "train" : "gen", to_int(rank()), sends ? "send" : "receive",
                 setup_.model.tensors[static_cast<std::size_t>(copy.tensor)].name);
  }
}

void Job::make_executors(const std::vector<plan::Copy>& copies) {
  const auto& c = setup_.c.refit;
  const transport::Tuning tuning = knobs();
  const transport::Endpoint me{side(), rank(), is_train() ? sent() : transport::LocalMemory(),
                               is_train() ? transport::LocalMemory() : weights_->memory()};
  std::int64_t flag_bytes = 0;
  switch (c.executor) {
    case ExecutorKind::golden:
      bulk_executor_ =
          transport::make_golden(space_, *routes_, me, bulk_, sent_by_train(), gen_layout(), tuning, progress_);
      break;
    case ExecutorKind::p2p:
      bulk_executor_ = transport::make_p2p(space_, *routes_, me, copies, tuning, progress_);
      break;
    case ExecutorKind::direct:
      flag_bytes = transport::fan_out_flag_bytes(copies, me.side, me.rank, tuning);
      if (world_.max(flag_bytes) > 0) flags_ = make_peer_memory(flag_bytes);
      bulk_executor_ = transport::make_direct(
          space_, *routes_, me, copies, *peers_, flags_.get(), world_, setup_.train->ranks(), tuning, progress_,
          sends_quantise_ ? transport::QuantisedSends{&sent_->quantise(), &gen_layout()} : transport::QuantisedSends());
      break;
    case ExecutorKind::m2n:
      bulk_executor_ =
          transport::make_m2n(space_, *routes_, me, bulk_, resharding_, sent_by_train(), gen_layout(), copies,
                              transport::make_nccl_resharder(*routes_, c.streams), tuning, progress_);
      break;
  }
  if (gather_ == nullptr && stream_ == nullptr) return;
  misc_executor_ = transport::make_misc(space_, gather_.get(), stream_.get(), me, misc_, sent_by_train(), gen_layout(),
                                        c.misc_buffer_bytes, tuning, progress_);
}

/// Those in which this rank has a part.
std::vector<transport::Communicator*> Job::all_communicators() const {
  std::vector<transport::Communicator*> all{gather_.get(), stream_.get()};
  for (const auto& communicator : communicators_) all.push_back(communicator.get());
  std::erase(all, nullptr);
  return all;
}

/// All that messages of refits are in: with all communicators of all ranks or with none.
void Job::register_memory(report::Result& result) {
  transport::MemoryList memory = bulk_executor_->staging();
  if (misc_executor_) std::ranges::copy(misc_executor_->staging(), std::back_inserter(memory));
  memory.push_back(weights_->arena());
  if (sent_ && !sent_->arena().empty()) memory.push_back(sent_->arena());
  bool registered = true;
  for (transport::Communicator* communicator : all_communicators()) registered &= communicator->register_memory(memory);
  if (world_.sum(registered ? 0 : std::int64_t{1}) == 0) return;
  for (transport::Communicator* communicator : all_communicators()) communicator->register_memory({});
  result.notes.push_back("NCCL cannot register the memory of all ranks: it copies through buffers of its own");
  if (session_.rank() == 0) spdlog::warn("{}", result.notes.back());
}

void Job::run_misc() {
  progress_.at("misc");
  misc_executor_->execute();
}

report::Refit Job::refit(std::int64_t number) {
  progress_.begin("update", limits_.refit());
  if (is_train() && setup_.c.run.update == Update::perturb) weights_->update(space_, number);
  progress_.at("barrier");
  world_.barrier();

  const double start = now();
  const bool quantises = sent_ && sent_->quantise().is_needed();
  if (quantises) {
    progress_.at("quantise");
    sent_->quantise().run();
  }
  const double quantised = now();
  const bool misc_first = misc_executor_ && setup_.faults.misc_first(is_train());
  if (misc_first) run_misc();
  progress_.at("bulk");
  if (!setup_.faults.skips_bulk(is_train(), rank(), number)) bulk_executor_->execute();
  const double bulk = now();
  if (misc_executor_ && !misc_first) run_misc();
  const double misc = now();
  progress_.at("finalize");
  if (cache_scales_ && !is_train() && !setup_.faults.skips_finalize(number)) {
    cache_scales_->finalise(setup_.faults.forgets_scales());
  }
  const double end = now();

  progress_.at("wait for all ranks");
  report::Refit result;
  result.number = number;
  result.warmup = number <= setup_.c.run.warmup;
  result.weight_sync = world_.max(end - start);
  result.phases = {
      {"bulk", world_.max(bulk - quantised)}, {"misc", world_.max(misc - bulk)}, {"finalize", world_.max(end - misc)}};
  for (const transport::Phase& phase : bulk_executor_->phases())
    result.phases.emplace_back(fmt::format("bulk.{}", phase.name), world_.max(phase.seconds));
  if (quantises) result.phases.insert(result.phases.begin(), {"quantise", world_.max(quantised - start)});
  // Of direct, so on all ranks or none.
  if (const auto seconds = bulk_executor_->enqueue_seconds()) result.host_seconds = world_.max(*seconds);
  return result;
}

verify::StepResult Job::verify(std::int64_t number, report::Result& result, const verify::Named& named) {
  begin("verify");
  verify::StepResult step = verify_weights(number, [&](const verify::StepResult& wrong) {
    named(wrong);
    progress_.begin("count", limits_.phase(host_bytes_) + setup_.c.run.count_seconds);
  });
  if (has_cache_scales()) CacheScales::verify(cache_scales_.get(), setup_, world_, step);
  if (!looked_at_gen_) say(not_finite_notes(setup_, not_finite_, verifier_->not_finite(verify::Group::gen)), result);
  looked_at_gen_ = true;
  return step;
}

verify::StepResult Job::verify_weights(std::int64_t number, const verify::Named& named) {
  if (!sends_quantise_) return verifier_->verify(number, named);
  // What gen should hold is in no memory of the refit: it is made here, for as long as it is looked at.
  const std::unique_ptr<SentWeights> expected = make_sent(all_weights);
  expected->quantise().run();
  if (is_train()) verifier_->move(expected->memory().storages());
  return verifier_->verify(number, named);
}

void Job::dump() const {
  if (setup_.c.output.dump_train.empty() && setup_.c.output.dump_gen.empty()) return;
  progress_.begin("dump", limits_.phase(host_bytes_));
  const std::string& folder = is_train() ? setup_.c.output.dump_train : setup_.c.output.dump_gen;
  together(world_, [&] {
    if (folder.empty()) return;
    std::vector<checkpoint::DumpTensor> buffers;
    if (cache_scales_ && !is_train()) buffers = cache_scales_->buffers();
    weights_->dump(folder, buffers);
  });
}

}  // namespace refit::engine
