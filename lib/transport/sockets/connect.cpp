// How ranks connect: each calls all ranks before it, and is called by those after it. Both ends prove that they belong
// to the same world, so that a stranger who calls, or is called, does no harm.

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/clock.hpp"
#include "transport/sockets/mesh.hpp"

namespace refit::transport {
namespace {

/// What it is answered.
struct Welcome {
  Token token{};
  std::int32_t rank = 0, unused = 0;
};

/// Strangers that may be on the line at a time.
constexpr std::size_t kStrangers = 256;
/// Seconds between two attempts to reach a rank that does not call.
constexpr double kLookAgain = 0.5;
/// Ranks that are looked for at a time, each for so long.
constexpr std::size_t kLooks = 8;
constexpr int kLookMilliseconds = 20;
constexpr int kPollMilliseconds = 100, kAgainMilliseconds = 2;

/// Receives the rest of a value; returns whether it is complete. `ended`: it never will be.
template <typename T>
bool receive(const Descriptor& socket, T& value, std::size_t& got, bool& ended) {
  while (got < sizeof(T)) {
    const ssize_t read = ::recv(socket.get(), reinterpret_cast<std::byte*>(&value) + got, sizeof(T) - got, 0);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0 && errno == EAGAIN) return false;
    ended = read <= 0;
    if (ended) return false;
    got += static_cast<std::size_t>(read);
  }
  return true;
}

/// Sends a value of a few bytes as the first of a connection, for which there is room.
template <typename T>
bool send(const Descriptor& socket, const T& value) {
  return ::send(socket.get(), &value, sizeof(T), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(T));
}

}  // namespace

/// One call of State::connect.
class Meeting {
 public:
  Meeting(SocketMesh::State& state, std::int64_t number, const std::vector<int>& members, int lanes)
      : state_(state), number_(number), members_(members), result_(members.size() * static_cast<std::size_t>(lanes)) {
    for (int lane = 0; lane < lanes; ++lane) {
      for (std::size_t at = 0; at < members.size(); ++at) {
        const std::size_t place = static_cast<std::size_t>(lane) * members.size() + at;
        if (members[at] < state.rank()) calls_.push_back({members[at], lane, place});
        if (members[at] > state.rank()) expected_.push_back({members[at], lane, place});
      }
    }
  }

  std::vector<Descriptor> run() {
    const double start = now();
    double look = start + kLookAgain;
    for (claim(); !calls_.empty() || !expected_.empty(); claim()) {
      bool again = false;
      for (Line& call : calls_) {
        if (!call.socket) again |= !dial(call);
      }
      wait(again);
      for (Line& call : calls_) go_on(call);
      std::erase_if(calls_, [](const Line& call) { return call.done; });
      answer_all();
      const double time = now();
      if (time > look) {
        look = time + kLookAgain;
        look_for_callers();
      }
      if (state_.options_.timeout_seconds > 0 && time - start > state_.options_.timeout_seconds) late();
    }
    return std::move(result_);
  }

 private:
  /// A connection to be made.
  struct Line {
    int peer;
    int lane;
    std::size_t place;
    Descriptor socket = {};
    bool by_unix = false, greeted = false, done = false;
    Welcome welcome = {};
    std::size_t got = 0;
  };
  const Card& card(int rank) const { return state_.cards_[static_cast<std::size_t>(rank)]; }
  std::string place_of(int rank) const {
    return fmt::format("{} at {}", state_.describe(rank), address_text(card(rank)));
  }

  /// Calls a rank; returns false where the kernel asks to try again.
  bool dial(Line& call) {
    call.greeted = false;
    call.got = 0;
    call.by_unix = card(call.peer).host == card(state_.rank_).host && !state_.apart_.contains(call.peer);
    call.socket = call.by_unix ? dial_unix(card(call.peer)) : dial_tcp(card(call.peer), state_.listeners_.scope);
    if (call.socket) return true;
    if (errno == EAGAIN || errno == EINTR) return false;
    unreachable(call, errno);
    return !call.by_unix;
  }

  /// A rank of this host in another network namespace has no Unix socket here: it is called by TCP.
  void unreachable(Line& call, int error) {
    call.socket.reset();
    if (call.by_unix && state_.apart_.insert(call.peer).second) return;
    if (call.by_unix) return;
    state_.fail(call.peer,
                fmt::format("{} cannot be reached from rank {}: {}; does its process live, and is the interface "
                            "right (REFIT_SOCKET_IFNAME)?",
                            place_of(call.peer), state_.rank_, error_text(error)));
  }

  /// Waits for something to happen.
  void wait(bool again) {
    polled_.clear();
    for (const Descriptor* listener : {&state_.listeners_.tcp, &state_.listeners_.unix_})
      polled_.push_back({listener->get(), POLLIN, 0});
    polled_.push_back({state_.poller_.descriptor(), POLLIN, 0});
    for (const Line& call : calls_) {
      if (call.socket) polled_.push_back({call.socket.get(), static_cast<short>(call.greeted ? POLLIN : POLLOUT), 0});
    }
    for (const SocketMesh::State::Caller& caller : state_.callers_) polled_.push_back({caller.socket.get(), POLLIN, 0});
    ::poll(polled_.data(), polled_.size(),
           state_.poller_.is_busy() ? 0
           : again                  ? kAgainMilliseconds
                                    : kPollMilliseconds);
    state_.ask_for_interruption();
    if (!state_.channels_.empty()) state_.poll(0);  // control planes have news: who is gone
  }

  void go_on(Line& call) {
    if (!call.socket) return;
    if (!call.greeted) {
      pollfd ready{call.socket.get(), POLLOUT, 0};
      if (::poll(&ready, 1, 0) <= 0) return;
      int error = error_of(call.socket);
      if (error == 0 && !send(call.socket, Hello{state_.token_, number_, state_.rank_, call.lane})) error = errno;
      if (error != 0) return unreachable(call, error);
      call.greeted = true;
    }
    bool ended = false;
    if (!receive(call.socket, call.welcome, call.got, ended)) {
      if (ended)
        state_.fail(call.peer, fmt::format("{} is gone, or refuses rank {}", place_of(call.peer), state_.rank_));
      return;
    }
    if (call.welcome.token != state_.token_ || call.welcome.rank != call.peer)
      state_.fail(call.peer,
                  fmt::format("a process of another world answers at the address of {}", place_of(call.peer)));
    result_[call.place] = std::move(call.socket);
    call.done = true;
  }

  void answer_all() {
    for (const Descriptor* listener : {&state_.listeners_.tcp, &state_.listeners_.unix_}) {
      while (Descriptor socket = answer(*listener)) state_.callers_.push_back({std::move(socket)});
    }
    for (auto& caller : state_.callers_) {
      bool ended = false;
      const bool complete = receive(caller.socket, caller.hello, caller.got, ended);
      caller.done = complete || ended;
      if (!complete) continue;
      const Hello& hello = caller.hello;
      const bool known = hello.token == state_.token_ && hello.rank > state_.rank_ && hello.rank < state_.size();
      if (!known) ++strangers_;
      if (known && send(caller.socket, Welcome{state_.token_, state_.rank_, 0}))
        state_.arrivals_.emplace(std::tuple{hello.number, hello.rank, hello.lane}, std::move(caller.socket));
    }
    std::erase_if(state_.callers_, [](const SocketMesh::State::Caller& caller) { return caller.done; });
    if (state_.callers_.size() > kStrangers) state_.callers_.erase(state_.callers_.begin());
  }

  /// Takes the connections that this call is about.
  void claim() {
    std::erase_if(expected_, [&](const Line& line) {
      const std::tuple key{number_, line.peer, line.lane};
      const auto arrival = state_.arrivals_.lower_bound(key);
      if (arrival == state_.arrivals_.end() || arrival->first != key) return false;
      result_[line.place] = std::move(arrival->second);
      state_.arrivals_.erase(arrival);
      return true;
    });
  }

  /// Finds out whether ranks that have not called are still there: their listeners end with them.
  void look_for_callers() {
    for (std::size_t i = 0; i < std::min(expected_.size(), kLooks); ++i) {
      const int peer = expected_[i].peer;
      if (card(peer).host == card(state_.rank_).host && dial_unix(card(peer))) continue;
      if (refuses(dial_tcp(card(peer), state_.listeners_.scope)))
        state_.fail(peer, fmt::format("{} is gone", state_.describe(peer)));
    }
  }

  /// Returns whether nobody listens at the other end any more, as far as is known in a moment.
  static bool refuses(const Descriptor& call) {
    if (!call) return errno == ECONNREFUSED;
    pollfd ready{call.get(), POLLOUT, 0};
    return ::poll(&ready, 1, kLookMilliseconds) > 0 && error_of(call) == ECONNREFUSED;
  }

  static int error_of(const Descriptor& socket) {
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
  }

  [[noreturn]] void late() {
    const Line& line = calls_.empty() ? expected_.front() : calls_.front();
    const std::string strangers =
        strangers_ == 0 ? "" : fmt::format("; {} connections of strangers were refused", strangers_);
    state_.fail(line.peer, fmt::format("{} has not {} rank {} within {:g} s{}", place_of(line.peer),
                                       calls_.empty() ? "called" : "answered", state_.rank_,
                                       state_.options_.timeout_seconds, strangers));
  }

  SocketMesh::State& state_;
  std::int64_t number_;
  const std::vector<int>& members_;
  std::vector<Descriptor> result_;
  std::vector<Line> calls_, expected_;
  std::vector<pollfd> polled_;
  int strangers_ = 0;
};

std::vector<Descriptor> SocketMesh::State::connect(std::int64_t number, const std::vector<int>& members, int lanes) {
  check();
  try {
    return Meeting(*this, number, members, lanes).run();
  } catch (const PeerError&) {
    throw;
  } catch (const std::exception& error) {  // too many open files: the others must not wait for this rank
    fail(rank_, fmt::format("{}: {}", describe(rank_), error.what()));
  }
}

}  // namespace refit::transport
