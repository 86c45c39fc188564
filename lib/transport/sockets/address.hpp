#pragma once
// Where a process can be reached: what ranks tell each other in their one all-gather, and the sockets behind it.

#include <array>
#include <cstdint>
#include <string>

#include "transport/sockets/descriptor.hpp"

namespace refit::transport {

/// What proves that two processes belong to the same world.
using Token = std::array<std::byte, 16>;
Token random_token();

/// What a rank tells all others. Plain bytes, all of them initialised.
struct Card {
  std::uint64_t version = 0;  ///< of this exchange and of all frames
  std::int32_t rank = 0, size = 0, pid = 0;
  std::uint16_t family = 0;  ///< of `address`: AF_INET or AF_INET6
  std::uint16_t port = 0;
  std::array<std::byte, 16> address{};
  std::uint64_t host = 0;  ///< location().host
  Token token{};           ///< rank 0's is the world's
  std::array<char, 48> unix_name{};
  std::array<char, 64> host_name{};
  std::array<char, 48> interface {};
  std::array<char, 256> failure{};  ///< why this rank cannot be reached; empty: it can
};

/// The sockets at which a rank is called.
struct Listeners {
  Descriptor tcp;      ///< on the network's interface
  Descriptor unix_;    ///< for ranks of this host
  unsigned scope = 0;  ///< of the interface, for IPv6 addresses of one link
};

/// Opens listeners and fills in the card's address. `interface`: as SocketOptions has it. Errors (runtime, usage): no
/// such interface, no socket.
Listeners listen(const std::string& interface, Card& card);

/// Begins to connect to the listener of `card`, through a Unix socket or TCP. Returns nothing where the kernel asks to
/// try again later, with errno EAGAIN, and where the listener cannot be reached, with another.
Descriptor dial_unix(const Card& card);
Descriptor dial_tcp(const Card& card, unsigned scope);

/// Takes one connection of a listener; nothing if there is none.
Descriptor answer(const Descriptor& listener);

/// Returns e.g. "10.0.0.7:41234 on eth0".
std::string address_text(const Card& card);

/// Gives a connection that will carry weights, or small frames, the buffers and options that it needs.
void tune(const Descriptor& connection, bool carries_weights);

}  // namespace refit::transport
