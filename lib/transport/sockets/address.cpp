#include "transport/sockets/address.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/error.hpp"

namespace refit::transport {
namespace {

/// Connections that wait to be answered.
constexpr int kBacklog = 4096;
/// Bytes that the kernel keeps of a connection that carries weights: as many as it takes to send while the other end
/// works on what came before.
constexpr int kBufferBytes = 1 << 20;

/// An address of an interface of this host.
struct Interface {
  std::string name, text;  ///< of its address
  sockaddr_storage address{};
  bool loopback = false;
  bool container =
      false;  ///< a bridge to containers, whose address other hosts have too (NCCL passes over it likewise)
  bool link_local = false;
};

std::vector<Interface> interfaces() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) fail_runtime("the network's interfaces: {}", error_text(errno));
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, freeifaddrs);
  std::vector<Interface> result;
  for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0) continue;
    const int family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    Interface& found = result.emplace_back();
    found.name = one->ifa_name;
    found.loopback = (one->ifa_flags & IFF_LOOPBACK) != 0;
    found.container = found.name.starts_with("docker") || found.name.starts_with("virbr");
    const bool four = family == AF_INET;
    std::memcpy(&found.address, one->ifa_addr, four ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    in6_addr number{};  // either's
    const std::size_t at = four ? offsetof(sockaddr_in, sin_addr) : offsetof(sockaddr_in6, sin6_addr);
    std::memcpy(&number, reinterpret_cast<const std::byte*>(&found.address) + at,
                four ? sizeof(in_addr) : sizeof(number));
    std::array<char, INET6_ADDRSTRLEN> text{};
    inet_ntop(family, &number, text.data(), static_cast<socklen_t>(text.size()));
    found.text = text.data();
    found.link_local = !four && IN6_IS_ADDR_LINKLOCAL(&number) != 0;
  }
  return result;
}

/// Returns the interface with this name or address, or the best: of a network, then a container's bridge, then the
/// loopback; its IPv4 address before others, one of a single link last.
Interface choose(const std::string& name) {
  const std::vector<Interface> all = interfaces();
  std::optional<Interface> best;
  const auto badness = [](const Interface& one) {
    return 8 * static_cast<int>(one.loopback) + 4 * static_cast<int>(one.container) +
           2 * static_cast<int>(one.link_local) + static_cast<int>(one.address.ss_family == AF_INET6);
  };
  for (const Interface& one : all) {
    if (!name.empty() && one.name != name && one.text != name) continue;
    if (!best || badness(one) < badness(*best)) best = one;
  }
  if (best) return *best;
  std::string known;
  for (const Interface& one : all) {
    if (known.find(one.name) == std::string::npos) known += (known.empty() ? "" : ", ") + one.name;
  }
  if (name.empty()) fail_runtime("this host has no network interface that is up, not even the loopback");
  fail_usage("interface {}: this host has none of that name or address that is up; it has {}", name,
             known.empty() ? "none" : known);
}

Descriptor new_socket(int family) {
  Descriptor made(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made && (errno == EMFILE || errno == ENFILE))
    fail_runtime("a socket: {}; raise the limit of open files (ulimit -n)", error_text(errno));
  if (!made) fail_runtime("a socket: {}", error_text(errno));
  return made;
}

template <std::size_t Size>
void copy_text(std::string_view text, std::array<char, Size>& to) {
  text.copy(to.data(), Size - 1);
}

socklen_t unix_address(const Card& card, sockaddr_un& address) {
  address.sun_family = AF_UNIX;
  const std::string_view name(card.unix_name.data());
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);  // abstract: behind a zero, without a file
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

socklen_t tcp_address(const Card& card, unsigned scope, sockaddr_storage& address) {
  if (card.family == AF_INET) {
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_port = htons(card.port);
    std::memcpy(&four.sin_addr, card.address.data(), sizeof(four.sin_addr));
    std::memcpy(&address, &four, sizeof(four));
    return sizeof(four);
  }
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(card.port);
  std::memcpy(&six.sin6_addr, card.address.data(), sizeof(six.sin6_addr));
  if (IN6_IS_ADDR_LINKLOCAL(&six.sin6_addr)) six.sin6_scope_id = scope;
  std::memcpy(&address, &six, sizeof(six));
  return sizeof(six);
}

void listen_at(const Descriptor& socket, const sockaddr* address, socklen_t size, const std::string& what) {
  if (::bind(socket.get(), address, size) != 0 || ::listen(socket.get(), kBacklog) != 0)
    fail_runtime("listening at {}: {}", what, error_text(errno));
}

Descriptor dial(int family, const sockaddr* address, socklen_t size) {
  Descriptor made = new_socket(family);
  if (::connect(made.get(), address, size) == 0 || errno == EINPROGRESS) return made;
  const int error = errno;
  made.reset();
  errno = error;
  return {};
}

}  // namespace

Token random_token() {
  Token token{};
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
    fail_runtime("random numbers: {}", error_text(errno));
  return token;
}

Listeners listen(const std::string& interface, Card& card) {
  const char* variable = std::getenv("REFIT_SOCKET_IFNAME");
  const Interface chosen = choose(!interface.empty() ? interface : variable != nullptr ? variable : "");
  copy_text(chosen.name, card.interface);
  card.family = static_cast<std::uint16_t>(chosen.address.ss_family);
  if (card.family == AF_INET) {
    sockaddr_in four{};
    std::memcpy(&four, &chosen.address, sizeof(four));
    std::memcpy(card.address.data(), &four.sin_addr, sizeof(four.sin_addr));
  } else {
    sockaddr_in6 six{};
    std::memcpy(&six, &chosen.address, sizeof(six));
    std::memcpy(card.address.data(), &six.sin6_addr, sizeof(six.sin6_addr));
  }
  Listeners result;
  result.scope = if_nametoindex(chosen.name.c_str());
  sockaddr_storage address{};
  socklen_t size = tcp_address(card, result.scope, address);
  result.tcp = new_socket(card.family);
  listen_at(result.tcp, reinterpret_cast<const sockaddr*>(&address), size, address_text(card));
  if (getsockname(result.tcp.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    fail_runtime("the address of a socket: {}", error_text(errno));
  // The port stands at the same place in both families.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  std::uint16_t port = 0;
  std::memcpy(&port, reinterpret_cast<const char*>(&address) + offsetof(sockaddr_in, sin_port), sizeof(port));
  card.port = ntohs(port);

  std::uint64_t name = 0;
  std::memcpy(&name, random_token().data(), sizeof(name));
  copy_text(fmt::format("refit.{}.{:016x}", getpid(), name), card.unix_name);
  sockaddr_un local{};
  const socklen_t local_size = unix_address(card, local);
  result.unix_ = new_socket(AF_UNIX);
  listen_at(result.unix_, reinterpret_cast<const sockaddr*>(&local), local_size, card.unix_name.data());
  return result;
}

Descriptor dial_unix(const Card& card) {
  sockaddr_un address{};
  const socklen_t size = unix_address(card, address);
  return dial(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), size);
}

Descriptor dial_tcp(const Card& card, unsigned scope) {
  sockaddr_storage address{};
  const socklen_t size = tcp_address(card, scope, address);
  return dial(card.family, reinterpret_cast<const sockaddr*>(&address), size);
}

Descriptor answer(const Descriptor& listener) {
  Descriptor made(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!made && (errno == EMFILE || errno == ENFILE))
    fail_runtime("a connection: {}; raise the limit of open files (ulimit -n)", error_text(errno));
  return made;
}

std::string address_text(const Card& card) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(card.family, card.address.data(), text.data(), static_cast<socklen_t>(text.size()));
  const bool six = card.family == AF_INET6;
  return fmt::format("{}{}{}:{} on {}", six ? "[" : "", text.data(), six ? "]" : "", card.port, card.interface.data());
}

void tune(const Descriptor& connection, bool carries_weights) {
  const auto set = [&](int level, int option, int value) {
    return setsockopt(connection.get(), level, option, &value, sizeof(value)) == 0;
  };
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  getsockname(connection.get(), reinterpret_cast<sockaddr*>(&own), &size);
  const bool is_unix = own.ss_family == AF_UNIX;
  if (!is_unix) {
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    // A host that has gone without a word is noticed after 10 + 3 x 5 s.
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  }
  // TCP's buffers grow by themselves, as far as the system lets them; those of Unix sockets do not.
  if (!carries_weights || !is_unix) return;
  if (!set(SOL_SOCKET, SO_SNDBUFFORCE, kBufferBytes)) set(SOL_SOCKET, SO_SNDBUF, kBufferBytes);
}

}  // namespace refit::transport
