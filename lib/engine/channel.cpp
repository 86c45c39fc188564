#include "engine/channel.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <sstream>

namespace refit::engine {
namespace {

using transport::now_ns;

constexpr std::uint32_t kMostBytes = 16 << 20;  ///< of a message
constexpr int kMilliseconds = 300;              ///< for one step of a connection

/// Header of every message. All hosts of a job have one byte order (MPI's data do, too).
struct Header {
  std::uint64_t token = 0;
  std::uint32_t bytes = 0;
  std::uint32_t unused = 0;
};

template <typename T>
void put(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void put(std::string& out, const std::string& text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

/// Reads what `put` has written; a message that is too short sets `good` to false.
class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  bool good = true;

  template <typename T>
  T get() {
    T value{};
    if (!has(sizeof(value))) return value;
    std::memcpy(&value, bytes_.data() + done_, sizeof(value));
    done_ += sizeof(value);
    return value;
  }
  std::string text() {
    const auto size = get<std::uint32_t>();
    if (!has(size)) return "";
    done_ += size;
    return bytes_.substr(done_ - size, size);
  }

 private:
  bool has(std::size_t size) {
    good = good && size <= bytes_.size() - done_;
    return good;
  }
  const std::string& bytes_;
  std::size_t done_ = 0;
};

void put(std::string& out, const Sight& sight) {
  for (std::int32_t value : {static_cast<std::int32_t>(sight.state), std::int32_t{sight.thread}, sight.rank,
                             sight.local_rank, sight.stage, sight.tensor, sight.peer, std::int32_t{sight.waiting}})
    put(out, value);
  for (std::int64_t value : {sight.pid, sight.collectives, sight.item}) put(out, value);
  put(out, sight.phase);
}

/// Reads a sight of a process on `host`.
Sight get_sight(Reader& in, const std::string& host) {
  Sight sight;
  sight.host = host;
  sight.state = static_cast<Sight::State>(in.get<std::int32_t>());
  sight.thread = static_cast<char>(in.get<std::int32_t>());
  for (int* value : {&sight.rank, &sight.local_rank, &sight.stage, &sight.tensor, &sight.peer})
    *value = in.get<std::int32_t>();
  sight.waiting = in.get<std::int32_t>() != 0;
  for (std::int64_t* value : {&sight.pid, &sight.collectives, &sight.item}) *value = in.get<std::int64_t>();
  sight.phase = in.text();
  return sight;
}

std::string encode(const std::string& host, const News& news) {
  std::string out;
  put(out, host);
  put(out, static_cast<std::uint32_t>(news.sights.size()));
  for (const Sight& sight : news.sights) put(out, sight);
  put(out, static_cast<std::int32_t>(news.failure.has_value()));
  if (!news.failure) return out;
  for (std::int32_t value : {static_cast<std::int32_t>(news.failure->ending),
                             static_cast<std::int32_t>(news.failure->kind), news.failure->rank})
    put(out, value);
  put(out, news.failure->seconds);
  put(out, news.failure->phase);
  put(out, news.failure->message);
  return out;
}

/// Returns false where these bytes are no message.
bool decode(const std::string& bytes, std::string& host, News& news) {
  Reader in(bytes);
  host = in.text();
  const auto count = in.get<std::uint32_t>();
  const std::string name = host.substr(0, host.find('#'));
  for (std::uint32_t i = 0; i < count && in.good; ++i) news.sights.push_back(get_sight(in, name));
  if (in.get<std::int32_t>() == 0) return in.good;
  Failure failure;
  failure.ending = static_cast<Ending>(in.get<std::int32_t>());
  failure.kind = static_cast<ErrorKind>(in.get<std::int32_t>());
  failure.rank = in.get<std::int32_t>();
  failure.seconds = in.get<double>();
  failure.phase = in.text();
  failure.message = in.text();
  news.failure = std::move(failure);
  return in.good;
}

bool send_message(int socket, std::uint64_t token, const std::string& message) {
  std::string bytes;
  put(bytes, Header{token, static_cast<std::uint32_t>(message.size()), 0});
  bytes += message;
  for (std::size_t done = 0; done < bytes.size();) {
    pollfd file{socket, POLLOUT, 0};
    if (poll(&file, 1, kMilliseconds) != 1) return false;
    const ssize_t sent = send(socket, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return false;
    done += static_cast<std::size_t>(sent);
  }
  return true;
}

/// Appends the bytes that have arrived; returns false where the connection is closed.
bool receive(int socket, std::string& received) {
  char part[65536];
  while (true) {
    const ssize_t got = recv(socket, part, sizeof(part), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (got == 0) return false;
    received.append(part, static_cast<std::size_t>(got));
  }
}

/// Returns the next whole message; nullopt where there is none yet. `good` becomes false for bytes that are not ours.
std::optional<std::string> next_message(std::string& received, std::uint64_t token, bool& good) {
  Header header;
  if (received.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, received.data(), sizeof(header));
  good = header.token == token && header.bytes <= kMostBytes;
  if (!good || received.size() < sizeof(header) + header.bytes) return std::nullopt;
  std::string message = received.substr(sizeof(header), header.bytes);
  received.erase(0, sizeof(header) + header.bytes);
  return message;
}

/// Returns this host's addresses; the loopback's only where there is no other.
std::vector<std::string> addresses() {
  std::vector<std::string> found;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {"127.0.0.1"};
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0 || (one->ifa_flags & IFF_LOOPBACK) != 0) continue;
    if (one->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = {};
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof(text));
    found.emplace_back(text);
  }
  freeifaddrs(all);
  return found.empty() ? std::vector<std::string>{"127.0.0.1"} : found;
}

}  // namespace

Listener::Listener() {
  std::random_device random;
  token_ = (std::uint64_t{random()} << 32) | random();
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof(any);
  constexpr int kWaiting = 128;
  if (socket_ < 0 || bind(socket_, reinterpret_cast<sockaddr*>(&any), size) != 0 || listen(socket_, kWaiting) != 0 ||
      getsockname(socket_, reinterpret_cast<sockaddr*>(&any), &size) != 0)
    return;
  port_ = ntohs(any.sin_port);
}

Listener::~Listener() {
  for (const Peer& peer : peers_) close(peer.socket);
  if (socket_ >= 0) close(socket_);
}

std::string Listener::address() const {
  if (port_ == 0) return "";
  std::string text = fmt::format("{} {}", port_, token_);
  for (const std::string& one : addresses()) text += " " + one;
  return text;
}

void Listener::serve(Verdict verdict, int code, const Sight& root) {
  if (port_ == 0) return;
  for (int one = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); one >= 0;
       one = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK))
    peers_.push_back({one, ""});
  const Answer answer{0, verdict, code, root};
  std::erase_if(peers_, [&](Peer& peer) {
    if (take(peer, answer)) return false;
    close(peer.socket);
    return true;
  });
}

bool Listener::take(Peer& peer, const Answer& answer) {
  bool good = receive(peer.socket, peer.received);
  bool any = false;
  for (bool ours = true; ours;) {
    const std::optional<std::string> message = next_message(peer.received, token_, ours);
    if (!ours) return false;
    if (!message) break;
    std::string host;
    News news;
    if (!decode(*message, host, news)) return false;
    news.at = now_ns();
    news_[host] = std::move(news);
    any = true;
  }
  if (!good || !any) return good;
  std::string reply;
  put(reply, static_cast<std::int32_t>(answer.verdict));
  put(reply, std::int32_t{answer.code});
  put(reply, answer.root.host);
  put(reply, answer.root);
  return send_message(peer.socket, token_, reply);
}

Teller::Teller(const std::string& address) {
  std::istringstream words(address);
  words >> port_ >> token_;
  for (std::string one; words >> one;) addresses_.push_back(one);
}

Teller::~Teller() { drop(); }

void Teller::drop() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
  received_.clear();
}

/// Connects to the next of the addresses.
void Teller::connect() {
  if (addresses_.empty()) return;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(port_));
  if (inet_pton(AF_INET, addresses_[next_++ % addresses_.size()].c_str(), &to.sin_addr) != 1) return;
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket_ < 0) return;
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) return;
  pollfd file{socket_, POLLOUT, 0};
  int error = errno == EINPROGRESS && poll(&file, 1, kMilliseconds) == 1 ? 0 : ETIMEDOUT;
  socklen_t size = sizeof(error);
  if (error == 0) getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) drop();
}

void Teller::tell(const std::string& host, const News& news) {
  if (socket_ < 0) connect();
  if (socket_ >= 0 && !send_message(socket_, token_, encode(host, news))) drop();
}

const Answer& Teller::hear() {
  if (socket_ < 0) return answer_;
  const bool good = receive(socket_, received_);
  for (bool ours = true; ours;) {
    const std::optional<std::string> message = next_message(received_, token_, ours);
    if (!ours) drop();
    if (!message) break;
    Reader in(*message);
    answer_.verdict = static_cast<Verdict>(in.get<std::int32_t>());
    answer_.code = in.get<std::int32_t>();
    const std::string host = in.text();
    answer_.root = get_sight(in, host);
    answer_.at = now_ns();
  }
  if (!good) drop();
  return answer_;
}

}  // namespace refit::engine
