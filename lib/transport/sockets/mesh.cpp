#include "transport/sockets/mesh.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "core/clock.hpp"
#include "transport/location.hpp"

namespace refit::transport {
namespace {

constexpr std::uint64_t kVersion = 0x7265666974'000001;  ///< "refit", 1
/// Seconds for which a rank looks again and again for what it waits for, giving its core away in between, before it
/// sleeps.
constexpr double kSpinSeconds = 1e-3;
/// Seconds after which a rank that waits tells others for whom, and the least that waits are cut into.
constexpr double kTell = 1;
constexpr int kPollMilliseconds = 200;
constexpr double kAsk = 0.1;  ///< seconds between questions whether this rank is interrupted
/// Number of the connections of control planes.
constexpr std::int64_t kControl = -1;
constexpr std::size_t kTextBytes = 2000;

template <std::size_t Size>
void set_text(std::array<char, Size>& to, const std::string& text) {
  to = {};
  text.copy(to.data(), Size - 1);
}

}  // namespace

SocketMesh::State::State(int rank, int size, const AllGather& all_gather, SocketOptions options)
    : rank_(rank), options_(std::move(options)), forks_(forks()) {
  if (size < 1 || rank < 0 || rank >= size) fail_usage("rank {} of {}: no such rank", rank, size);
  cards_.resize(static_cast<std::size_t>(size));
  introduce(all_gather);
  std::vector<int> everybody(cards_.size());
  std::iota(everybody.begin(), everybody.end(), 0);
  std::vector<Descriptor> sockets = connect(kControl, everybody, 1);
  channels_.resize(cards_.size());
  for (int peer = 0; peer < size; ++peer) {
    const auto at = static_cast<std::size_t>(peer);
    if (peer == rank_) continue;
    tune(sockets[at], false);
    channels_[at] = std::make_unique<ControlChannel>(std::move(sockets[at]), *this, peer);
    poller_.add(*channels_[at]);
  }
}

SocketMesh::State::~State() { close(); }

/// Tells all ranks where this one is, or why it cannot be reached, and checks what they tell.
void SocketMesh::State::introduce(const AllGather& all_gather) {
  Card mine;
  mine.version = kVersion;
  mine.rank = rank_;
  mine.size = size();
  mine.pid = getpid();
  std::array<char, 64> name{};
  gethostname(name.data(), name.size() - 1);
  mine.host_name = name;
  try {
    mine.host = location().host;
    mine.token = random_token();
    listeners_ = listen(options_.interface, mine);
  } catch (const Error& error) {
    set_text(mine.failure, error.what());
  }
  all_gather(&mine, cards_.data(), sizeof(Card));
  for (int rank = 0; rank < size(); ++rank) {
    Card& card = cards_[static_cast<std::size_t>(rank)];
    if (card.version != kVersion)
      throw PeerError(rank, fmt::format("rank {} answers in another way than this rank {}: all processes must use the "
                                        "same version of refit, and the all-gather must keep their bytes",
                                        rank, rank_));
    for (auto* end : {&card.host_name.back(), &card.interface.back(), &card.unix_name.back(), &card.failure.back()})
      *end = '\0';
    if (card.rank != rank || card.size != size())
      throw PeerError(rank, fmt::format("{} of {} stands where rank {} of {} belongs in the all-gather",
                                        describe(card.rank == rank ? rank : -1), card.size, rank, size()));
  }
  for (int rank = 0; rank < size(); ++rank) {
    const Card& card = cards_[static_cast<std::size_t>(rank)];
    if (card.failure.front() != '\0') throw PeerError(rank, fmt::format("{}: {}", describe(rank), card.failure.data()));
  }
  token_ = cards_.front().token;
}

std::string SocketMesh::State::describe(int rank) const {
  if (rank < 0 || rank >= size()) return fmt::format("rank {}", rank);
  const Card& card = cards_[static_cast<std::size_t>(rank)];
  return fmt::format("rank {} ({}, pid {})", rank, card.host_name.data(), card.pid);
}

void SocketMesh::State::end_all(const Frame& frame, const std::string& text) {
  for (const auto& channel : channels_) {
    if (channel == nullptr) continue;
    poller_.remove(*channel);
    channel->end(frame, text);
  }
}

void SocketMesh::State::close() {
  if (closed_) return;
  closed_ = true;
  Frame frame;
  frame.kind = Frame::Kind::goodbye;
  if (!broken_ && forks_ == forks()) end_all(frame, "");
  broken_.emplace(-1, "this rank has closed its world");
  channels_.clear();
  arrivals_.clear();
  listeners_ = {};
}

void SocketMesh::State::check() {
  if (!broken_ && forks_ != forks())
    broken_.emplace(rank_,
                    fmt::format("this process is a child of {}: it must make a world of its own", describe(rank_)));
  if (broken_) throw PeerError(*broken_);
}

void SocketMesh::State::leave(const char* what) noexcept {
  try {
    fail(rank_, fmt::format("{} {} {}", describe(rank_), what, phase()));
  } catch (const std::exception&) {
    // All ranks have been told what can be told.
  }
}

void SocketMesh::State::fail(int culprit, const std::string& text) {
  if (!broken_) {
    const std::string cut = text.substr(0, kTextBytes);
    broken_.emplace(culprit, cut);
    Frame frame;
    frame.kind = Frame::Kind::abort;
    frame.root = culprit;
    frame.bytes = static_cast<std::int64_t>(cut.size());
    end_all(frame, cut);
  }
  throw PeerError(*broken_);
}

void SocketMesh::State::poll(int milliseconds) {
  check();
  try {
    poller_.poll(milliseconds);
  } catch (const PeerError&) {
    throw;
  } catch (const std::bad_alloc&) {
    fail(rank_, fmt::format("{} has no memory for what others send", describe(rank_)));
  }
}

void SocketMesh::State::wait(const bool& done, int peer) {
  // Waking up costs tens of microseconds, and most waits of a refit are shorter than this one.
  for (const double start = now(); !done && now() - start < kSpinSeconds;) {
    if (channel(peer).is_closed()) break;
    poll(0);
    std::this_thread::yield();
  }
  while (!done) {
    if (channel(peer).is_closed())
      fail(peer,
           fmt::format("{} has closed its world, and rank {} waits for it in {}", describe(peer), rank_, phase()));
    poll(kPollMilliseconds);
    if (!done) still_waiting_for(peer);
  }
  waited();
}

void SocketMesh::State::ask_for_interruption() {
  if (!options_.interrupted || now() - last_asked_ < kAsk) return;
  if (options_.interrupted()) fail(rank_, fmt::format("{} was interrupted while it waited", describe(rank_)));
  last_asked_ = now();
}

void SocketMesh::State::still_waiting_for(int peer) {
  ask_for_interruption();
  const double time = now();
  if (moves_ != seen_moves_) {
    seen_moves_ = moves_;
    waited_seconds_ = 0;
    if (told_ >= 0) tell_that_waits(-1);
  } else {
    // A caller that has not looked for a while has not waited all the time.
    waited_seconds_ += std::min(time - last_look_, kTell / 2);
  }
  last_look_ = time;
  if (waited_seconds_ > kTell && told_ != peer) tell_that_waits(peer);
  if (options_.timeout_seconds > 0 && waited_seconds_ > options_.timeout_seconds) late(peer);
}

void SocketMesh::State::waited() {
  if (told_ >= 0) tell_that_waits(-1);
  ++moves_;
}

/// Tells all ranks for whom this one waits, so that each knows who is behind; and takes in what they tell.
void SocketMesh::State::tell_that_waits(int peer) {
  told_ = peer;
  Frame frame;
  frame.kind = Frame::Kind::note;
  if (occasion != nullptr) {
    frame.plane = occasion->plane;
    frame.number = occasion->number;
    frame.call = occasion->call;
    std::memcpy(frame.data.data(), &occasion->root, sizeof(occasion->root));
  }
  frame.root = peer;
  for (const auto& one : channels_) {
    if (one == nullptr) continue;
    one->note(frame);
    if (peer >= 0) one->drain();
  }
}

void SocketMesh::State::awaited(int peer, const Occasion& theirs) {
  if (occasion == nullptr || theirs.call == Call::none || theirs.number == 0) return;
  if (theirs.plane == occasion->plane && theirs.number == occasion->number && theirs != *occasion)
    out_of_step(peer, theirs, *occasion);
}

std::string SocketMesh::State::phase() const {
  std::string text = occasion != nullptr ? to_string(*occasion) : "messages";
  const std::string phase = options_.progress != nullptr ? phase_of(options_.progress->where()) : "";
  return phase.empty() ? text : fmt::format("{}, phase \"{}\"", text, phase);
}

void SocketMesh::State::late(int peer) {
  if (peer == rank_) fail(rank_, fmt::format("{} waits for a message that it has not sent itself", describe(rank_)));
  for (const auto& one : channels_) {
    if (one != nullptr) one->drain();
  }
  // Whoever waits itself is not the one that is behind.
  int behind = peer;
  std::set<int> seen{rank_};
  while (seen.insert(behind).second && channel(behind).waits_for >= 0) {
    if (seen.contains(channel(behind).waits_for))
      fail(behind, fmt::format("ranks wait for each other for {:g} s, {} and {} among them: rank {} in {}",
                               options_.timeout_seconds, describe(behind), describe(channel(behind).waits_for), rank_,
                               phase()));
    behind = channel(behind).waits_for;
  }
  fail(behind, fmt::format("{} keeps rank {} waiting for {:g} s in {}", describe(behind), rank_,
                           options_.timeout_seconds, phase()));
}

void SocketMesh::State::lost(int peer) {
  // The control planes' connection may know why, now or soon.
  for (int i = 0; i < 10; ++i) {
    channel(peer).drain();
    if (channel(peer).is_closed()) break;
    poll(kPollMilliseconds / 4);
  }
  if (channel(peer).is_closed())
    fail(peer, fmt::format("{} has closed its world, and rank {} waits for its messages", describe(peer), rank_));
  fail(peer, fmt::format("{} has ended the connection of messages that rank {} waits for", describe(peer), rank_));
}

void SocketMesh::State::gone(int peer, int error) {
  fail(peer, fmt::format("{} is gone{}", describe(peer), error == 0 ? "" : fmt::format(": {}", error_text(error))));
}

void SocketMesh::State::aborted(int culprit, const std::string& text) { fail(culprit, text); }

void SocketMesh::State::out_of_step(int peer, const Occasion& theirs, const Occasion& mine) {
  const char* part = theirs.plane == mine.plane ? "" : " of another group of ranks";
  fail(peer, fmt::format("ranks are out of step: {} is in {}{}, {} in {}", describe(peer), to_string(theirs), part,
                         describe(rank_), to_string(mine)));
}

void SocketMesh::State::unequal(int peer, std::int64_t sent, std::int64_t wanted, const Occasion& where) {
  fail(peer, fmt::format("ranks are out of step: {} sends {} bytes in {}, and {} wants {}", describe(peer), sent,
                         to_string(where), describe(rank_), wanted));
}

SocketMesh::SocketMesh(int rank, int size, const AllGather& all_gather, const SocketOptions& options)
    : state_(std::make_shared<State>(rank, size, all_gather, options)) {}

SocketMesh::~SocketMesh() { state_->close(); }

int SocketMesh::rank() const { return state_->rank(); }
int SocketMesh::size() const { return state_->size(); }
std::string SocketMesh::describe(int rank) const { return state_->describe(rank); }
void SocketMesh::set_timeout(double seconds) { state_->set_timeout(seconds); }
void SocketMesh::set_progress(Progress* progress) { state_->set_progress(progress); }

}  // namespace refit::transport
