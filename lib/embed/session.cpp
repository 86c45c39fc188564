#include "embed/session.hpp"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <ranges>

#include "core/clock.hpp"
#include "core/hash.hpp"
#include "core/text.hpp"
#include "embed/unprobed_links.hpp"
#include "kernels/device_scope.hpp"
#include "transport/together.hpp"

namespace refit::embed {
namespace {

using transport::CollectiveError;
using transport::together;

/// The kernels' runtime of this process: on the device that was current when the first session was made, until the
/// process exits. One that was forked has no part in it.
class Kernels {
 public:
  Kernels() : runtime_(std::make_unique<kernels::Runtime>(kernels::CurrentDevice{})) {}
  ~Kernels() {
    if (getpid() != process_) (void)runtime_.release();
  }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

 private:
  pid_t process_ = getpid();
  std::unique_ptr<kernels::Runtime> runtime_;
};

void start_kernels() { static const Kernels kernels; }

/// Gen storages of the process's open sessions: each may be refitted by one.
class OpenStorages {
 public:
  /// Errors (usage): a block shares memory with one that an open session has.
  void require_free(const std::vector<transport::OwnedBlock>& blocks, const std::string& owner) const {
    for (const transport::OwnedBlock& block : blocks) {
      for (const auto& [session, other] : open_) {
        if (block.bytes == 0 || other.bytes == 0) continue;
        if (block.address >= other.address + other.bytes || other.address >= block.address + block.bytes) continue;
        throw Error(ErrorKind::usage,
                    fmt::format("{}: {}: another open session refits this memory, as {}; close that one first", owner,
                                block.name, other.name),
                    {block.name});
      }
    }
  }
  void add(const Session* session, const std::vector<transport::OwnedBlock>& blocks) {
    for (const transport::OwnedBlock& block : blocks) open_.emplace_back(session, block);
  }
  void remove(const Session* session) {
    std::erase_if(open_, [&](const auto& entry) { return entry.first == session; });
  }

 private:
  std::vector<std::pair<const Session*, transport::OwnedBlock>> open_;
};

/// One of the process; its calls take turns (refit.cpp).
OpenStorages& open_storages() {
  static OpenStorages storages;
  return storages;
}

/// Returns every rank's text.
std::vector<std::string> gather_texts(transport::Control& world, const std::string& mine) {
  transport::Control::Bytes bytes;
  for (const char c : mine) transport::append(bytes, c);
  std::vector<std::string> all;
  for (const transport::Control::Bytes& one : world.gather_all(bytes)) {
    const std::vector<char> text = transport::read_all<char>(one);
    all.emplace_back(text.begin(), text.end());
  }
  return all;
}

/// Lets the mesh's messages say in which phase of the session a rank is, for as long as it lives.
class Phases {
 public:
  Phases(World& world, transport::Progress& progress) : world_(world) { world.mesh().set_progress(&progress); }
  ~Phases() { world_.mesh().set_progress(nullptr); }
  Phases(const Phases&) = delete;
  Phases& operator=(const Phases&) = delete;

 private:
  World& world_;
};

transport::ExecutorKind kind_of(Executor executor) {
  switch (executor) {
    case Executor::golden: return transport::ExecutorKind::golden;
    case Executor::p2p: return transport::ExecutorKind::p2p;
    case Executor::automatic:
    case Executor::direct: return transport::ExecutorKind::direct;
  }
  fail_invariant("an executor");
}

}  // namespace

Session::Own::Own(const Plan& plan, Side of, Rank number)
    : side(of),
      rank(number),
      name(fmt::format("{} rank {}", of == Side::source ? "train" : "gen", to_int(number))),
      local(layout::materialise(plan.side(of), plan.pair().model.tensors, number)) {
  // Trainers do with their padding what they like.
  if (of == Side::source) local.fills.clear();
}

Session::Session(const Plan& plan, World& world, std::span<const refit_tensor> train, std::span<const refit_tensor> gen,
                 const std::function<SessionOptions()>& options)
    : plan_(plan), world_(world), exchange_(plan.pair().exchange(plan.colocated())) {
  transport::Control& control = world_.control();
  const Phases phases(world_, progress_);
  std::optional<kernels::DeviceScope> scope;
  together(control, [&] {
    options_ = options();
    if (control.size() != plan_.world().size())
      fail_usage("the plan is for {} processes and the world has {}: {} train and {} gen ranks{}", plan_.world().size(),
                 control.size(), plan_.world().source, plan_.world().destination,
                 plan_.colocated() ? ", colocated" : "");
    start_kernels();
    scope.emplace();
    space_ = std::make_unique<kernels::ExecutionSpace>();
  });
  require_common_plan();
  together(control, [&] {
    const OwnRanks ranks = plan_.world().own(control.rank());
    if (ranks.source) train_.emplace(plan_, Side::source, *ranks.source);
    if (ranks.destination) gen_.emplace(plan_, Side::destination, *ranks.destination);
    bind_all(train, gen);
  });
  places_ = transport::places_of(control);
  // Flags of fan-out are mapped by what maps the engines' own memory, which is no NCCL memory.
  links_ = kernels::Runtime::has_device() ? transport::make_device_links(control, world_.timeout_seconds(), progress_,
                                                                         transport::DeviceMapping::ipc)
                                          : transport::make_socket_links(world_.mesh(), control, {}, progress_);
  links_ = std::make_unique<UnprobedLinks>(std::move(links_));
  attach();
}

Session::~Session() {
  const kernels::DeviceScope scope;
  const Phases phases(world_, progress_);
  try {
    detach();
  } catch (const std::exception&) {  // peers that are gone: everything of this process is released all the same
  }
  links_.reset();
  space_.reset();
}

std::vector<Session::Own*> Session::sides() {
  std::vector<Own*> sides;
  for (std::optional<Own>* side : {&train_, &gen_})
    if (*side) sides.push_back(&**side);
  return sides;
}

/// Requires that all ranks, each of which made its own plan and has options of its own, have the same.
void Session::require_common_plan() const {
  transport::Control& control = world_.control();
  const std::string options =
      fmt::format("executor={} fan_out={} delta={} streams={} misc_buffer_bytes={}", name(options_.executor),
                  options_.fan_out, name(options_.delta), options_.streams, options_.misc_buffer_bytes);
  const std::string text = options + "\n" + plan_.meaning();
  const std::vector<std::string> hashes = gather_texts(control, fmt::format("{:x}", hash_name(text)));
  const auto other = std::ranges::find_if(hashes, [&](const std::string& hash) { return hash != hashes.front(); });
  if (other == hashes.end()) return;
  const std::vector<std::string> asked = gather_texts(control, fmt::format("{}, {}", plan_.asked(), options));
  const auto rank = static_cast<int>(other - hashes.begin());
  const std::string& theirs = asked[static_cast<std::size_t>(rank)];
  throw CollectiveError(ErrorKind::usage,
                        fmt::format("rank {} has another plan or other options than rank 0: {}, against {}{}", rank,
                                    theirs, asked.front(), theirs == asked.front() ? ", of another config.json" : ""),
                        {"", rank});
}

void Session::bind_all(std::span<const refit_tensor> train, std::span<const refit_tensor> gen) {
  for (const auto& [side, tensors] : {std::pair(Side::source, train), std::pair(Side::destination, gen)}) {
    std::optional<Own>& mine = own(side);
    if (!mine) {
      if (tensors.empty()) continue;
      fail_usage("this process is no {} rank, and was given {} tensors of that side",
                 side == Side::source ? "train" : "gen", tensors.size());
    }
    mine->binding = bind_tensors(mine->local, tensors, mine->name, side == Side::destination);
    if (side == Side::destination) open_storages().require_free(mine->blocks(), mine->name);
  }
  require_apart();
}

/// Requires of a colocated process that its gen storages are no memory that it sends.
void Session::require_apart() const {
  if (!train_ || !gen_) return;
  std::vector<transport::OwnedBlock> sent = train_->blocks();
  std::ranges::sort(sent, {}, &transport::OwnedBlock::address);
  std::int64_t longest = 0;
  for (const transport::OwnedBlock& block : sent) longest = std::max(longest, block.bytes);
  for (const transport::OwnedBlock& block : gen_->blocks()) {
    auto at = std::ranges::lower_bound(sent, block.address + block.bytes, {}, &transport::OwnedBlock::address);
    while (at != sent.begin() && block.address - std::prev(at)->address < longest) {
      --at;
      if (block.bytes > 0 && block.address < at->address + at->bytes && at->address < block.address + block.bytes)
        fail_about(block.name,
                   "{}: it shares memory with {}, which the trainer holds there: a refit would overwrite it",
                   gen_->name, at->name);
    }
  }
}

void Session::map_memory() {
  transport::Control& control = world_.control();
  peers_ = transport::make_foreign_memory(control, gen_ ? gen_->blocks() : std::vector<transport::OwnedBlock>());
  const WorldMap map = plan_.world();
  std::int64_t unmapped = 0;
  for (std::int32_t r = 0; r < map.destination; ++r)
    if (peers_->map(map.world_rank(Side::destination, Rank{r})) == nullptr) ++unmapped;
  const std::vector<std::string> reasons = gather_texts(control, unmapped > 0 ? peers_->note() : "");
  if (control.sum(unmapped) == 0) return;
  const auto reason = std::ranges::find_if(reasons, [](const std::string& text) { return !text.empty(); });
  const std::string why = reason == reasons.end() ? "" : ": " + *reason;
  if (options_.executor == Executor::direct) {
    notes_.push_back(
        fmt::format("direct: memory of some gen ranks cannot be mapped, so that they are sent messages{}", why));
    return;
  }
  notes_.push_back(fmt::format("executor p2p: memory of some gen ranks cannot be mapped{}", why));
  how_.executor = transport::ExecutorKind::p2p;
  peers_.reset();
}

void Session::attach() {
  how_ = {};
  how_.executor = kind_of(options_.executor);
  how_.tuning.streams = options_.streams;
  how_.tuning.delta = options_.delta;
  how_.misc_buffer_bytes = options_.misc_buffer_bytes;
  how_.fan_out = options_.fan_out ? session::FanOut::on : session::FanOut::off;
  how_.registers_memory = false;
  how_.phase_seconds = world_.timeout_seconds();
  together(world_.control(), [this] {
    for (Own* side : sides()) side->identities = transport::identities(side->blocks());
  });
  mine_ = std::make_unique<session::OwnMemory>();
  if (how_.row().stores) map_memory();
  if (train_) mine_->source.emplace(train_->memory());
  if (gen_) mine_->destination.emplace(gen_->memory());
  mine_->peers = peers_.get();
  notes_.push_back(fmt::format("executor {}", how_.row().name));
  session_ = std::make_unique<session::Session>(*space_, world_.control(), *links_, places_, exchange_, *mine_, how_,
                                                progress_);
  session_->set_versions(versions_);
  for (const std::string& note : session_->notes()) notes_.push_back(note);
  for (const Own* side : sides()) {
    const std::vector<std::string>& others = side->binding.ignored;
    if (!others.empty())
      notes_.push_back(fmt::format("{}: {} left alone, which the plan does not have: {}{}", side->name,
                                   counted(std::ssize(others), "tensor"), fmt::join(others | std::views::take(3), ", "),
                                   others.size() > 3 ? ", ..." : ""));
  }
  if (gen_) open_storages().add(this, gen_->blocks());
}

void Session::detach() {
  open_storages().remove(this);
  prover_.reset();
  if (session_) versions_ = session_->versions();
  session_.reset();
  mine_.reset();
  peers_.reset();
}

void Session::move(Side side, std::span<const refit_tensor> tensors) {
  std::optional<Own>& mine = own(side);
  if (!mine) fail_usage("this process is no {} rank of the session", side == Side::source ? "train" : "gen");
  mine->asked.reset();
  mine->refused.reset();
  try {
    Binding binding = bind_tensors(mine->local, tensors, mine->name, side == Side::destination);
    if (binding.addresses != mine->binding.addresses) mine->asked = std::move(binding);
  } catch (const Error& error) {
    mine->refused.emplace(error);
    throw;
  }
}

void Session::refuse(Side side, const Error& error) {
  std::optional<Own>& mine = own(side);
  if (mine) mine->refused.emplace(error);
}

std::string Session::moved() {
  std::vector<std::string> texts;
  for (Own* side : sides()) {
    if (side->refused) throw Error(*side->refused);
    const Binding& now = side->asked ? *side->asked : side->binding;
    const std::vector<std::uint64_t> identities =
        transport::identities(blocks_of(side->local, now, side->side == Side::destination));
    std::int64_t count = 0;
    std::string first;
    for (std::size_t i = 0; i < identities.size(); ++i) {
      if (identities[i] == side->identities[i]) continue;
      if (count++ == 0) first = side->local.storages[i].title();
    }
    if (count > 0)
      texts.push_back(fmt::format("{}: {} moved, the first is {}", side->name, counted(count, "storage"), first));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

double Session::follow() {
  transport::Control& control = world_.control();
  std::string mine;
  together(control, [&] { mine = moved(); });
  if (control.max(static_cast<std::int64_t>(mine.empty() ? 0 : 1)) == 0) return 0;
  const double start = now();
  try {
    const bool is_unknown = gen_has_moved();
    detach();
    if (is_unknown) versions_.held = {};
    notes_.clear();
    for (const std::string& text : gather_texts(control, mine))
      if (!text.empty()) notes_.push_back(fmt::format("before refit {}: {}; mapped anew", refits_ + 1, text));
    together(control, [&] {
      for (Own* side : sides()) {
        if (side->asked) side->binding = std::move(*side->asked);
        side->asked.reset();
        if (side->side == Side::destination) open_storages().require_free(side->blocks(), side->name);
      }
    });
    together(control, [this] { require_apart(); });
    is_filled_ = false;
    attach();
  } catch (const Error& error) {  // nothing is mapped any more
    broken_.emplace(error);
    throw;
  }
  return now() - start;
}

bool Session::gen_has_moved() {
  if (!gen_) return false;
  const Binding& now = gen_->asked ? *gen_->asked : gen_->binding;
  return transport::identities(blocks_of(gen_->local, now, true)) != gen_->identities;
}

void Session::fill_constants() const {
  if (!gen_) return;
  const transport::LocalMemory memory(gen_->local, gen_->binding.addresses);
  for (const auto& [storage, fill] : gen_->local.fills) {
    const DType dtype = gen_->local.storages[static_cast<std::size_t>(storage)].dtype;
    kernels::fill(*space_, memory.address(fill.place, dtype), dtype, fill.extent, fill.place.strides, fill.value);
  }
  space_->fence();
}

template <typename Verb>
void Session::guarded(const Verb& verb) {
  if (broken_) throw Error(*broken_);
  const kernels::DeviceScope scope;
  const Phases phases(world_, progress_);
  try {
    verb();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::runtime) broken_.emplace(error);
    throw;
  } catch (const std::exception& error) {
    broken_.emplace(ErrorKind::runtime, error.what());
    throw;
  }
}

session::Version Session::version() const {
  const session::Session::Versions versions = session_ ? session_->versions() : versions_;
  return gen_ ? versions.held : versions.sent;
}

void Session::set_version(std::int64_t number) {
  if (broken_) throw Error(*broken_);
  if (!gen_) fail_usage("this process is no gen rank of the session: it holds no version");
  if (number < session::Version::kNone) fail_usage("there is no version {}: give 0 or more, or -1 for none", number);
  session_->set_held(number == session::Version::kNone ? session::Version{}
                                                       : session::Version{number, session_->plan_hash()});
}

void Session::require_version(std::int64_t number) {
  guarded([&] { session_->require_version(number); });
}

refit_seconds Session::refit(std::optional<std::int64_t> number) {
  refit_seconds seconds{};
  guarded([&] {
    seconds.remap = follow();
    if (!is_filled_) fill_constants();
    is_filled_ = true;
    const session::RefitSeconds mine = session_->refit({}, number);
    if (!session_->missed().empty() && seconds.remap == 0)
      notes_.push_back(fmt::format("refit {}: {}, and got everything", refits_ + 1, to_string(session_->missed())));
    ++refits_;
    seconds.total = mine.total;
    seconds.quantise = mine.quantise;
    seconds.bulk = mine.bulk;
    seconds.misc = mine.misc;
  });
  return seconds;
}

const verify::StepResult& Session::prove() {
  guarded([&] {
    follow();
    if (!prover_)
      prover_ = std::make_unique<session::Prover>(*space_, world_.control(), *session_, exchange_, *mine_, 1,
                                                  std::vector<verify::Constant>(), verify::Tuning());
    proof_ = prover_->prove(refits_);
    if (proof_->ok()) {
      session_->set_proved(proof_->fingerprint_gen);
    } else {
      session_->restart();
    }
  });
  return *proof_;
}

}  // namespace refit::embed
