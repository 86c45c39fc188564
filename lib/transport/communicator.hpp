#pragma once
// The machine as executors use it: a data plane that moves bytes between ranks, a control plane for the small
// collectives of prepare and verify, and memory of a peer that can be written to directly.
//
// Ranks here are ranks of the communicator (plain ints, as in MPI and NCCL). Implementations: MPI (hosts), threads
// (tests, all ranks in one process), and NCCL where it is built in. All are arguments; nothing is global.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace refit::transport {

/// One message of a group.
struct Message {
  enum class Kind : std::uint8_t { send, receive };
  Kind kind = Kind::send;
  int peer = 0;  ///< rank in the communicator
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
};

/// Whole allocations.
using MemoryList = std::vector<std::span<std::byte>>;

/// Operations in flight on one lane of a communicator; reusable, so that executing allocates nothing.
class Request {
 public:
  virtual ~Request() = default;
  /// Makes progress; returns true once all operations of the request are complete.
  virtual bool test() = 0;
  /// Gives the core away for a while after a `test` that returned false.
  virtual void pause() { std::this_thread::yield(); }
};

/// Waits until all operations of `request` are complete, and gives the core away meanwhile.
inline void complete(Request& request) {
  while (!request.test()) request.pause();
}

/// Point-to-point groups and broadcasts of bytes. Between two ranks messages match in the order in which they were
/// posted on one lane; lanes (0 .. lanes - 1) do not interfere with each other.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Makes a request that can hold up to `capacity` messages of a group, for any communicator of the same kind.
  virtual std::unique_ptr<Request> make_request(std::int64_t capacity) = 0;
  /// Starts all messages of a group, which progress together (ncclGroupStart/End; MPI_Isend/Irecv). `request` must be
  /// idle.
  virtual void post(std::span<const Message> group, int lane, Request& request) = 0;
  /// Starts a broadcast from `root`. Collective over the communicator, in the same order on all its ranks.
  virtual void broadcast(std::byte* data, std::int64_t bytes, int root, Request& request) = 0;
  /// Names the memory that messages will come from and go to, instead of the memory that was named before, so that a
  /// communicator that is able to need not copy through buffers of its own; returns false where it is not. The two ends
  /// of a message must agree: all ranks name all memory that they use, and where one cannot, all name none. No message
  /// may be under way, and named memory must not be freed.
  virtual bool register_memory(const MemoryList& /*memory*/) { return true; }
};

/// The same small messages between this rank and some others, again and again.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// Sends and receives all messages; complete on return. Allocates nothing. Every rank that has an end of a message
  /// runs its own exchange, and runs those of one control plane in the same order.
  virtual void run() = 0;
};

/// Small host-side collectives for prepare, verify and report. Every function is collective over the control plane,
/// unless it says otherwise.
class Control {
 public:
  using Bytes = std::vector<std::byte>;

  virtual ~Control() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void barrier() = 0;
  /// Sends to[i] to rank i; returns the bytes that each rank sent to this one.
  virtual std::vector<Bytes> exchange(const std::vector<Bytes>& to) = 0;
  /// Returns the bytes of every rank, everywhere.
  std::vector<Bytes> gather_all(const Bytes& mine) {
    return exchange(std::vector<Bytes>(static_cast<std::size_t>(size()), mine));
  }
  /// Returns the bytes of every rank, at `root`; empty elsewhere.
  virtual std::vector<Bytes> gather(const Bytes& mine, int root) = 0;
  /// Returns root's bytes, everywhere.
  virtual Bytes broadcast(Bytes bytes, int root) = 0;
  /// Adds wrapping 64-bit values of all ranks into root's `values`; other ranks' values are left unspecified.
  virtual void reduce_sum(std::span<std::int64_t> values, int root) = 0;
  /// Makes each value the largest of all ranks, everywhere.
  virtual void max(std::span<std::uint32_t> values) = 0;
  virtual double max(double value) = 0;
  virtual std::int64_t sum(std::int64_t value) = 0;
  virtual std::int64_t max(std::int64_t value) = 0;
  /// Makes an exchange of messages in host memory, which must outlive it; not to this rank itself. Not collective: only
  /// ranks that share messages make an exchange, and both ranks of a pair list the pair's messages in the same order.
  virtual std::unique_ptr<Exchange> make_exchange(std::span<const Message> messages) = 0;
  /// Makes new control planes of the ranks of one color, ordered by rank. Color < 0: no part in any (nullptr).
  /// Collective over this.
  virtual std::unique_ptr<Control> split(int color) = 0;
};

/// The memory of all ranks of a machine's sharing domain, as far as this rank can address it: of each rank one arena,
/// or memory that somebody else has allocated, in many pieces (foreign_memory.hpp).
class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  /// Returns the begin of this rank's own memory (nullptr: it has none).
  virtual std::byte* local() const = 0;
  /// Returns the begin of world rank `rank`'s memory in this rank's address space, or nullptr if it has none or any of
  /// it cannot be mapped. Only an arena goes on from there: other memory is found by `at`.
  virtual std::byte* map(int rank) const = 0;
  /// Returns what other ranks hand to `at` to find `mine`, an address in this rank's own memory.
  virtual std::int64_t offset(const std::byte* mine) const { return mine - local(); }
  /// Returns where another rank's (or this rank's) `offset(mine)` is in this rank's address space. Whatever follows
  /// `mine` in its own allocation follows here. `rank` must be mapped.
  virtual std::byte* at(int rank, std::int64_t offset) const { return map(rank) + offset; }
  /// Orders this rank's stores before a following barrier, and loads after it.
  virtual void fence() = 0;
  /// Returns what the memory is mapped by, and why by nothing better, for the reader; empty: nothing is to be told.
  virtual std::string mechanism() const { return {}; }
  /// Returns one line on the arenas that this rank cannot map and the reason; empty if it maps all that are not empty,
  /// or cannot say.
  virtual std::string note() const { return {}; }
};

}  // namespace refit::transport
