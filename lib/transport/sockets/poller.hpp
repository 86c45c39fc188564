#pragma once
// Connections that move their bytes when the kernel says that they can.

#include <array>
#include <cstdint>
#include <vector>

#include "transport/sockets/descriptor.hpp"

namespace refit::transport {

/// A connected, non-blocking socket.
class Channel {
 public:
  explicit Channel(Descriptor socket) : socket_(std::move(socket)) {}
  virtual ~Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  /// Reads and writes what is wanted and possible. Returns true if it stopped to let others go on.
  virtual bool advance() = 0;

 protected:
  int fd() const { return socket_.get(); }

  bool readable_ = true, writable_ = true;  ///< as far as is known
  bool hung_ = false;                       ///< the other end has closed, or has gone; more may be left to read

 private:
  friend class Poller;
  Descriptor socket_;
  bool listed_ = false;
};

/// The channels of one mesh. Its functions allocate nothing, except `add`.
class Poller {
 public:
  Poller();
  /// `channel` must be removed before it is destroyed.
  void add(Channel& channel);
  void remove(Channel& channel);
  /// Has `channel` advance in the next `poll`.
  void list(Channel& channel) {
    if (!channel.listed_) ready_.push_back(&channel);
    channel.listed_ = true;
  }
  /// Waits for an event for up to `milliseconds` (-1: for ever), unless a channel can go on, and advances those that
  /// can.
  void poll(int milliseconds);
  /// Returns whether a channel can go on.
  bool is_busy() const { return !ready_.empty(); }
  /// A descriptor that is readable when a channel has an event.
  int descriptor() const { return epoll_.get(); }

 private:
  Descriptor epoll_;
  std::size_t channels_ = 0;
  std::vector<Channel*> ready_, now_;
};

}  // namespace refit::transport
