#pragma once
// Small messages of control planes between two ranks. They arrive in order; each says which call of which control plane
// it belongs to, so that ranks that are out of step notice.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/sockets/poller.hpp"

namespace refit::transport {

/// A function of a control plane.
enum class Call : std::uint8_t { none, barrier, exchange, gather, broadcast, reduce_sum, max, sum, messages };

/// One call of a control plane. All its ranks number their calls alike, except those of exchanges, which are 0.
struct Occasion {
  std::uint64_t plane = 0;
  std::uint32_t number = 0;
  std::int32_t root = -1;
  Call call = Call::none;
  friend bool operator==(const Occasion&, const Occasion&) = default;
};

/// Returns e.g. "broadcast of rank 0 (call 17)".
std::string to_string(const Occasion& occasion);

/// A frame as it is sent; what is too long for it follows.
struct Frame {
  enum class Kind : std::uint32_t {
    call = 1,
    note,     ///< `root` is the rank that the sender waits for; -1: none any more
    goodbye,  ///< the sender sends nothing more
    abort     ///< the mesh is broken: `root` is to blame, the reason follows
  };
  static constexpr std::size_t kShort = 16;

  Kind kind = Kind::call;
  Call call = Call::none;
  std::uint8_t step = 0;  ///< within the call
  std::uint16_t unused = 0;
  std::uint64_t plane = 0;
  std::uint32_t number = 0;
  std::int32_t root = -1;
  std::int64_t bytes = 0;
  std::array<std::byte, kShort> data{};

  Occasion occasion() const { return {plane, number, root, call}; }
  bool is_short() const { return bytes <= static_cast<std::int64_t>(kShort); }
};

/// A frame on its way; must stay where it is until it is done.
struct OutFrame {
  OutFrame() = default;
  OutFrame(const Occasion& occasion, int step, const void* bytes, std::int64_t size);

  Frame frame;
  const std::byte* data = nullptr;
  std::int64_t sent = 0;
  bool done = false;
  OutFrame* next = nullptr;
};

/// A frame that is expected; must stay where it is until it is done.
struct InFrame {
  /// Into memory of exactly `size` bytes.
  InFrame(const Occasion& expected, int expected_step, void* to, std::int64_t size)
      : occasion(expected), step(expected_step), data(static_cast<std::byte*>(to)), bytes(size) {}
  /// Of any size.
  InFrame(const Occasion& expected, int expected_step, std::vector<std::byte>& to)
      : occasion(expected), step(expected_step), grows(&to) {}

  Occasion occasion;
  int step;
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
  std::vector<std::byte>* grows = nullptr;
  bool done = false;
  InFrame* next = nullptr;
};

/// First in, first out, of what its elements' owners keep.
template <typename T>
struct Chain {
  T* first = nullptr;
  T* last = nullptr;

  void push(T& element) {
    element.next = nullptr;
    (last == nullptr ? first : last->next) = &element;
    last = &element;
  }
  /// Removes an element that follows `before` (nullptr: the first).
  void remove(T* before, T& element) {
    (before == nullptr ? first : before->next) = element.next;
    if (last == &element) last = before;
  }
};

class MeshEvents;

/// The control planes' connection with one rank.
class ControlChannel final : public Channel {
 public:
  ControlChannel(Descriptor socket, MeshEvents& events, int peer);

  /// Sends a frame, now or as soon as the kernel takes it.
  void send(OutFrame& frame);
  void receive(InFrame& frame);
  bool advance() override;
  /// Takes in everything that has arrived, wanted or not: what stands behind it matters.
  void drain();
  /// Sends what must not wait, if it can be sent: a note.
  void note(const Frame& frame);
  /// Sends a last frame, if it can be sent, and closes this end.
  void end(const Frame& frame, const std::string& text);
  bool is_closed() const { return closed_; }

  int waits_for = -1;  ///< as the peer has noted

 private:
  struct Stashed {
    Frame frame;
    std::vector<std::byte> data;
  };
  void write();
  void read();
  bool fill();
  bool claim();
  void finish();
  void close(int error);
  void deliver(InFrame& frame, const Frame& head, const std::byte* data);
  std::size_t buffered() const { return end_ - begin_; }

  MeshEvents& events_;
  int peer_;
  bool said_goodbye_ = false, closed_ = false, draining_ = false;

  Chain<OutFrame> out_;
  OutFrame note_;

  Chain<InFrame> expected_;
  std::vector<Stashed> stash_;  ///< has arrived before it is expected
  std::array<std::byte, 4096> buffer_;
  std::size_t begin_ = 0, end_ = 0;  ///< of what has been read and not used
  Frame head_;
  bool has_head_ = false, claimed_ = false;
  InFrame* target_ = nullptr;
  std::byte* payload_ = nullptr;
  std::int64_t missing_ = 0;  ///< of the payload
  std::vector<std::byte> abort_text_;
};

/// What a channel tells its mesh.
class MeshEvents {
 public:
  virtual ~MeshEvents() = default;
  /// Bytes have moved.
  virtual void moved() = 0;
  /// The connection with `peer` has ended without a goodbye. `error`: an errno, or 0.
  [[noreturn]] virtual void gone(int peer, int error) = 0;
  [[noreturn]] virtual void aborted(int culprit, const std::string& text) = 0;
  [[noreturn]] virtual void out_of_step(int peer, const Occasion& theirs, const Occasion& mine) = 0;
  [[noreturn]] virtual void unequal(int peer, std::int64_t sent, std::int64_t wanted, const Occasion& occasion) = 0;
  /// `peer` waits for this rank.
  virtual void awaited(int peer, const Occasion& theirs) = 0;
  virtual int rank() const = 0;
};

}  // namespace refit::transport
