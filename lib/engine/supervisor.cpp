#include "engine/supervisor.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include "engine/process.hpp"

namespace refit::engine {
namespace {

using transport::now_ns;

constexpr std::int64_t kSecond = 1'000'000'000;
/// Time that the acting process leaves a failure seen by another process to rank 0.
constexpr std::int64_t kPatience = 3 * kSecond;
/// Longest time of a report.
constexpr std::int64_t kReport = 10 * kSecond;
/// Interval at which rank 0 is told of a host's ranks.
constexpr std::int64_t kTelling = kSecond / 2;
/// Time after a signal in which the hosts listen to each other for a rank's death, which then is the cause.
constexpr std::int64_t kHearing = kSecond;
/// Longest time for which rank 0 tells the other hosts how the job ends, before it ends them.
constexpr std::int64_t kSpreading = kTelling + kSecond / 4;
constexpr std::int64_t kFarewell = 5 * kSecond;
/// Pause after which a supervisor counts none of the time.
constexpr std::int64_t kAbsence = kSecond;

/// Ticks that a supervisor has missed when it may have died.
constexpr double kMissedTicks = 3;

sigset_t our_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  return set;
}

const char* name_of(int signal) { return signal == SIGINT ? "SIGINT" : signal == SIGTERM ? "SIGTERM" : "SIGHUP"; }

Failure failure_of(const PostedFailure& posted) {
  return {static_cast<Ending>(posted.ending),
          static_cast<ErrorKind>(posted.kind),
          posted.rank,
          posted.phase,
          posted.message,
          posted.seconds};
}

template <std::size_t N>
void copy_text(char (&to)[N], const std::string& from) {
  const std::size_t length = std::min(N - 1, from.size());
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

/// Ends this process where a report, or the launcher that was asked to end the job, hangs.
void end_later(int code) {
  std::thread([code] {
    std::this_thread::sleep_for(std::chrono::nanoseconds(kReport));
    say("the report of the failure does not come to its end");
    _exit(code);
  }).detach();
}

}  // namespace

void say(const std::string& text) {
  std::string lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines += "refit: " + line + "\n";
  constexpr int kMilliseconds = 1000;
  for (std::size_t done = 0; done < lines.size();) {
    pollfd file{STDERR_FILENO, POLLOUT, 0};
    if (poll(&file, 1, kMilliseconds) != 1 || (file.revents & POLLOUT) == 0) return;
    const ssize_t put = write(STDERR_FILENO, lines.data() + done, std::min<std::size_t>(lines.size() - done, PIPE_BUF));
    if (put <= 0) return;
    done += static_cast<std::size_t>(put);
  }
}

Supervisor::Supervisor(Board& board, int local_rank, int rank, How how)
    : board_(board),
      local_rank_(local_rank < board.slots() ? local_rank : 0),
      rank_(rank),
      how_(std::move(how)),
      progress_((board.attach(local_rank_, rank), &board.slot(local_rank_).where)) {
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (how_.signals) {
    const sigset_t set = our_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  thread_ = std::thread([this] { watch(); });
}

Supervisor::~Supervisor() {
  ended();
  stop_ = true;
  eventfd_write(wake_, 1);
  thread_.join();
  close(wake_);
  if (signals_ >= 0) close(signals_);
}

void Supervisor::name_tensors(TensorName name) {
  const std::lock_guard lock(mutex_);
  name_ = std::move(name);
}

void Supervisor::stand_aside() {
  constexpr std::int64_t kFarAhead = std::int64_t{1} << 62;
  collectives_ = board_.slot(local_rank_).where.collectives.exchange(kFarAhead);
}

void Supervisor::stand_in_line(transport::Control& world) {
  std::atomic<std::int64_t>& mine = board_.slot(local_rank_).where.collectives;
  if (collectives_) mine = *std::exchange(collectives_, std::nullopt);
  mine = world.max(mine.load());
}

TensorName Supervisor::tensor_name() const {
  const std::lock_guard lock(mutex_);
  return name_;
}

bool Supervisor::claim(const Failure& failure) {
  Verdict none = Verdict::none;
  if (!board_.verdict().compare_exchange_strong(none, Verdict::claimed)) return false;
  board_.holder() = rank_.load();
  PostedFailure& posted = board_.failure();
  posted.ending = static_cast<std::int32_t>(failure.ending);
  posted.kind = static_cast<std::int32_t>(failure.kind);
  posted.rank = failure.rank;
  posted.seconds = failure.seconds;
  copy_text(posted.phase, failure.phase);
  copy_text(posted.message, failure.message);
  board_.verdict() = Verdict::published;
  eventfd_write(wake_, 1);
  return true;
}

void Supervisor::connect(transport::Control& world) {
  rank_ = world.rank();
  board_.slot(local_rank_).rank = world.rank();
  world.barrier();
  board_.close();
  bool has_root = false;
  for (int i = 0; i < board_.slots(); ++i) has_root |= board_.slot(i).life != Life::absent && board_.slot(i).rank == 0;
  if (world.max(std::int64_t{has_root ? 0 : 1}) == 0) return;
  transport::Control::Bytes bytes;
  if (world.rank() == 0) {
    listener_ = std::make_unique<Listener>();
    for (char c : listener_->address()) bytes.push_back(static_cast<std::byte>(c));
  }
  bytes = world.broadcast(std::move(bytes), 0);
  std::string address;
  for (std::byte b : bytes) address.push_back(static_cast<char>(b));
  if (!has_root) teller_ = std::make_unique<Teller>(address);
  others_ended_ = listener_ == nullptr;
  connected_ = true;
}

void Supervisor::fail(ErrorKind kind, const std::string& message) {
  claim({Ending::error, kind, rank_, transport::phase_of(progress_.where()), message, 0});
  wait_for_the_end();
}

/// Waits: the process that has the verdict ends this one.
void Supervisor::wait_for_the_end() {
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

void Supervisor::await_others() {
  progress_.enter_collective();  // further than those that are still to come here
  const transport::Waiting waiting(&progress_);
  for (int i = 0; i < board_.slots(); ++i) {
    const auto awaited = [&] {
      const Life life = board_.slot(i).life;
      return i != local_rank_ && (life == Life::alive || (life == Life::absent && !board_.closed()));
    };
    while (awaited()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  const std::int64_t begin = now_ns();
  while (!others_ended_ && now_ns() - begin < kFarewell) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

void Supervisor::conclude() {
  Verdict none = Verdict::none;
  if (!board_.verdict().compare_exchange_strong(none, Verdict::concluded)) wait_for_the_end();
  board_.holder() = rank_.load();
}

void Supervisor::written() {
  Verdict concluded = Verdict::concluded;
  if (!board_.verdict().compare_exchange_strong(concluded, Verdict::written)) wait_for_the_end();
}

void Supervisor::watch() {
  std::int64_t before = now_ns();
  while (!stop_) {
    wait();
    const std::int64_t now = now_ns();
    if (now - before > kAbsence) forgive(now - before);
    before = now;
    board_.slot(local_rank_).beat = now;
    if (!stop_) step();
  }
  // The host's last process tells rank 0 that it was the last.
  for (int i = 0; i < board_.slots(); ++i) {
    if (board_.slot(i).life == Life::alive) return;
  }
  if (connected_ && teller_) teller_->tell(board_name(), {0, sights(), std::nullopt});
}

/// Waits for the next tick, an event or a signal.
void Supervisor::wait() {
  pollfd files[] = {{wake_, POLLIN, 0}, {signals_, POLLIN, 0}};
  poll(files, signals_ >= 0 ? 2 : 1, static_cast<int>(how_.tick_seconds * 1000));
  eventfd_t events = 0;
  eventfd_read(wake_, &events);
  signalfd_siginfo signal{};
  while (signals_ >= 0 && read(signals_, &signal, sizeof(signal)) == sizeof(signal))
    on_signal(static_cast<int>(signal.ssi_signo));
}

/// Extends this process's deadline by a time in which it was suspended.
void Supervisor::forgive(std::int64_t nanoseconds) {
  auto& mine = board_.slot(local_rank_).where.deadline_ns;
  std::int64_t deadline = mine;
  if (deadline != 0) mine.compare_exchange_strong(deadline, deadline + nanoseconds);
  quiet_until_ = now_ns() + kAbsence;
}

bool Supervisor::is_fresh(int i) const {
  const Slot& slot = board_.slot(i);
  if (slot.life != Life::alive) return false;
  const double silence = static_cast<double>(now_ns() - slot.beat) / 1e9;
  return silence < kSilentSeconds && (silence < kMissedTicks * how_.tick_seconds || !is_dead(slot));
}

/// Returns whether this process acts for its host: the first process whose supervisor runs looks after all of them.
bool Supervisor::is_acting() const {
  for (int i = 0; i < local_rank_; ++i) {
    if (is_fresh(i)) return false;
  }
  return true;
}

/// Returns the slot of rank 0 where it is on this host and runs; else -1.
int Supervisor::root_slot() const {
  for (int i = 0; i < board_.slots(); ++i) {
    if (board_.slot(i).rank == 0 && is_fresh(i)) return i;
  }
  return -1;
}

std::vector<Sight> Supervisor::sights() const {
  const std::string host = host_name();
  std::vector<Sight> all;
  for (int i = 0; i < board_.slots(); ++i) {
    Sight sight = sight_of(board_.slot(i), i, host, true);
    if (sight.state == Sight::State::absent && board_.closed()) continue;
    if (sight.rank < 0 && board_.is_whole_job()) sight.rank = i;
    all.push_back(std::move(sight));
  }
  return all;
}

std::vector<Sight> Supervisor::all_sights() const {
  std::vector<Sight> all = sights();
  if (!connected_) return all;
  if (teller_ && teller_->last().at != 0 && !root_hears()) {
    all.push_back(teller_->last().root);
    all.back().state = Sight::State::silent;
  }
  if (!listener_) return all;
  for (const auto& [host, news] : listener_->news()) {
    const bool old = static_cast<double>(now_ns() - news.at) > (kSilentSeconds + 1) * 1e9;
    for (Sight sight : news.sights) {
      if (old && sight.state == Sight::State::running) sight.state = Sight::State::silent;
      all.push_back(std::move(sight));
    }
  }
  return all;
}

/// Returns the host's name, and the board's number where the host has several.
std::string Supervisor::board_name() const {
  for (int i = 0; i < board_.slots(); ++i) {
    if (board_.slot(i).life != Life::absent) return fmt::format("{}#{}", host_name(), board_.slot(i).rank.load());
  }
  return host_name();
}

void Supervisor::serve(Verdict verdict) {
  listener_->serve(verdict, board_.code(), sight_of(board_.slot(local_rank_), local_rank_, host_name(), true));
}

/// Exchanges news with the other hosts.
void Supervisor::talk() {
  const Verdict verdict = board_.verdict();
  if (listener_) {
    serve(verdict);
    bool ended = !listener_->news().empty();
    for (const auto& [host, news] : listener_->news()) {
      for (const Sight& sight : news.sights) ended &= sight.state == Sight::State::ended;
      if (!news.failure || verdict != Verdict::none) continue;
      // Rank 0 looks for the late ranks itself, since it sees more than that host did.
      if (news.failure->ending == Ending::timeout) {
        claim_timeout(news.failure->phase, news.failure->seconds);
      } else {
        claim(*news.failure);
      }
    }
    others_ended_ = ended;
    return;
  }
  if (!teller_ || !is_acting()) return;
  const std::int64_t now = now_ns();
  const bool urgent = (verdict == Verdict::published && verdict_since_ == 0) || (signal_ != 0 && told_ < signal_at_);
  if (now - told_ >= kTelling || urgent) {
    told_ = now;
    News news{0, sights(), std::nullopt};
    if (verdict == Verdict::published) news.failure = failure_of(board_.failure());
    teller_->tell(board_name(), news);
  }
  const Answer& answer = teller_->hear();
  board_.lost_root() = teller_->is_lost();
  if (answer.verdict != Verdict::reported) return;
  for (Verdict before : {Verdict::none, Verdict::published}) {
    if (!board_.verdict().compare_exchange_strong(before, Verdict::claimed)) continue;
    board_.code() = answer.code;
    board_.verdict() = Verdict::reported;
  }
}

/// Returns whether rank 0, on another host, has answered of late.
bool Supervisor::root_hears() const {
  return connected_ && teller_ && teller_->last().at != 0 &&
         static_cast<double>(now_ns() - teller_->last().at) < (kSilentSeconds + 1) * 1e9;
}

void Supervisor::step() {
  if (connected_) talk();
  if (signal_ != 0) after_signal();
  const Verdict verdict = board_.verdict();
  if (verdict != Verdict::none) return follow(verdict);
  if (is_acting() && now_ns() >= quiet_until_) look_for_trouble();
}

void Supervisor::look_for_trouble() {
  const std::int64_t now = now_ns();
  if (now - looked_ > kSecond / 4) {
    looked_ = now;
    for (const Sight& sight : sights()) {
      if (sight.state != Sight::State::dead) continue;
      claim({Ending::death, ErrorKind::runtime, sight.rank, sight.phase, describe(sight, tensor_name()), 0});
      return;
    }
  }
  // Rank 0's host goes first, since it has the results.
  std::int64_t patience = kPatience / 3;
  for (int i = 0; i < board_.slots(); ++i) {
    if (board_.slot(i).life != Life::absent && board_.slot(i).rank == 0) patience = 0;
  }
  const transport::Where* late = nullptr;
  for (int i = 0; i < board_.slots(); ++i) {
    const Slot& slot = board_.slot(i);
    if (slot.life != Life::alive) continue;
    const std::int64_t deadline = slot.where.deadline_ns;
    if (deadline == 0) continue;
    if (now < deadline && slot.where.extends) return;  // its work moves on, and the others wait for it
    if (now >= deadline + patience) late = &slot.where;
  }
  if (late == nullptr) return;
  claim_timeout(transport::phase_of(*late), static_cast<double>(late->limit_ns) / 1e9);
}

void Supervisor::claim_timeout(const std::string& phase, double seconds) {
  const std::vector<Sight> missing = behind(all_sights());
  claim({Ending::timeout, ErrorKind::runtime, missing.empty() ? -1 : missing.front().rank,
         missing.empty() ? phase : missing.front().phase,
         fmt::format("timeout: no end after {:.4g} s: {}", seconds, describe(missing, tensor_name())), seconds});
}

void Supervisor::follow(Verdict verdict) {
  const std::int64_t now = now_ns();
  if (verdict_since_ == 0) verdict_since_ = now;
  const std::int64_t since = now - verdict_since_;
  switch (verdict) {
    case Verdict::none: return;
    case Verdict::concluded:
    case Verdict::written: {
      // The results are written by the main thread of rank 0.
      const transport::Where& where = progress_.where();
      const std::int64_t deadline = where.deadline_ns;
      if (rank_ != 0 || deadline == 0 || now < deadline) return;
      const double limit = static_cast<double>(where.limit_ns) / 1e9;
      const char* late = verdict == Verdict::written ? "nobody takes the summary" : "the results are not written";
      return overrule(verdict, {Ending::timeout, ErrorKind::runtime, rank_, transport::phase_of(where),
                                fmt::format("rank {}: timeout: {} after {:.4g} s", rank_.load(), late, limit), limit});
    }
    case Verdict::published: {
      const int root = root_slot();
      // A rank 0 on another host reports this failure, or has a verdict already; a process that acts since the one
      // before it has died has not heard of it yet.
      if (root < 0 && connected_ && teller_ && !board_.lost_root() && since < kHearing) return;
      if (root < 0 && root_hears() && (since < kPatience || teller_->last().verdict != Verdict::none)) return;
      const bool mine = root >= 0 ? root == local_rank_ : is_acting();
      if (mine || (board_.holder() == rank_ && since > kPatience)) report_failure();
      return;
    }
    case Verdict::claimed:
    case Verdict::taken:
      if (since < kReport + kPatience) return;
      say(fmt::format("rank {}: rank {} does not report its failure", rank_, board_.holder().load()));
      how_.end(static_cast<int>(ErrorKind::runtime));
      return;
    case Verdict::reported:
      if (since > kPatience) how_.end(board_.code());
      return;
  }
}

void Supervisor::report_failure() {
  Verdict published = Verdict::published;
  if (!board_.verdict().compare_exchange_strong(published, Verdict::taken)) return;
  board_.holder() = rank_.load();
  const Failure failure = failure_of(board_.failure());
  if (how_.signals) end_later(static_cast<int>(ErrorKind::runtime));
  if (failure.ending == Ending::timeout) {
    constexpr std::size_t kShown = 32;
    std::string lines;
    const std::vector<Sight> all = all_sights();
    for (std::size_t i = 0; i < std::min(kShown, all.size()); ++i) lines += describe(all[i], tensor_name()) + "\n";
    say(lines);
  }
  board_.code() = how_.report(failure);
  board_.verdict() = Verdict::reported;
  board_.keep_for_those_to_come();
  spread();
  how_.end(board_.code());
}

/// Waits until all hosts that are heard of have heard that the job's end is reported: none reports it again.
void Supervisor::spread() {
  if (!connected_ || !listener_) return;
  const std::int64_t begin = now_ns();
  const auto has_heard = [&](const auto& item) { return item.second.at >= begin; };
  while (now_ns() - begin < kSpreading) {
    serve(Verdict::reported);
    if (std::ranges::all_of(listener_->news(), has_heard)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

/// Reports a main thread that hangs after the job's end. The end cannot be undone, but the results name the failure.
void Supervisor::overrule(Verdict verdict, const Failure& failure) {
  if (!board_.verdict().compare_exchange_strong(verdict, Verdict::taken)) return;
  if (how_.signals) end_later(static_cast<int>(ErrorKind::runtime));
  board_.code() = how_.report(failure);
  board_.verdict() = Verdict::reported;
  how_.end(board_.code());
}

/// Returns whether no other process is on the board: this one is the first of several, or comes when the others have
/// been ended already.
bool Supervisor::is_alone() const {
  if (board_.closed() || board_.slots() == 1) return false;
  for (int i = 0; i < board_.slots(); ++i) {
    if (i != local_rank_ && board_.slot(i).life != Life::absent) return false;
  }
  return true;
}

void Supervisor::on_signal(int number) {
  const Verdict verdict = board_.verdict();
  if (verdict == Verdict::reported) _exit(board_.code());
  if (verdict == Verdict::concluded && rank_ == 0) {
    const std::string phase = transport::phase_of(progress_.where());
    return overrule(verdict, {Ending::interruption, ErrorKind::runtime, 0, phase,
                              fmt::format("interrupted by {} in phase {}", name_of(number), phase), 0});
  }
  if (verdict != Verdict::none || signal_ != 0) return;
  signal_ = number;
  signal_at_ = now_ns();
  after_signal();
}

void Supervisor::after_signal() {
  const std::int64_t since = now_ns() - signal_at_;
  if (is_alone()) {
    // A process that was stopped before it came was woken up to be ended: the verdict has been given without it.
    if (since > kSecond) _exit(static_cast<int>(ErrorKind::runtime));
  } else {
    // A rank that has died is the cause: a launcher then ends the other ranks of the job.
    for (const Sight& sight : sights()) {
      if (sight.state != Sight::State::dead) continue;
      claim({Ending::death, ErrorKind::runtime, sight.rank, sight.phase, describe(sight, tensor_name()), 0});
      return;
    }
    if (connected_ && since <= (board_.lost_root() ? kPatience : kHearing)) return;
    if (board_.lost_root()) {  // and its own host has not ended this process
      const std::string phase = transport::phase_of(progress_.where());
      claim({Ending::death, ErrorKind::runtime, 0, phase, "rank 0 has died: its connection has ended", 0});
      return;
    }
    const Sight me = sight_of(board_.slot(local_rank_), local_rank_, host_name(), false);
    const int number = std::exchange(signal_, 0);
    std::string message = fmt::format("interrupted by {} in {}", name_of(number), place_of(me, tensor_name()));
    std::vector<Sight> missing = sights();
    std::erase_if(missing, [](const Sight& sight) { return sight.state != Sight::State::absent; });
    if (!missing.empty()) message += "; " + describe(missing, tensor_name());
    claim({Ending::interruption, ErrorKind::runtime, rank_, me.phase, message, 0});
  }
}

}  // namespace refit::engine
