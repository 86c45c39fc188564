#pragma once
// One lane of an NCCL communicator: a communicator and a stream of its own, and the queue of its requests. Private to
// the NCCL implementation.
//
// NCCL is used non-blocking: a launch may need a first connection to a peer, which waits until the peer launches on the
// same lane. The peer may be about to do so on another lane first, so neither may wait. A launch that is under way
// leaves the lane busy; later requests queue up, and `progress` launches them later.

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <vector>

#include "transport/communicator.hpp"
#include "transport/cuda_handles.hpp"
#include "transport/nccl_rules.hpp"

namespace refit::transport {

class NcclLane;

/// A bound on waiting, from now on.
class Deadline {
 public:
  /// 0: no bound.
  explicit Deadline(double seconds) : seconds_(seconds) {}
  bool passed() const {
    return seconds_ > 0 && std::chrono::duration<double>(Clock::now() - start_).count() > seconds_;
  }

 private:
  using Clock = std::chrono::steady_clock;
  double seconds_;
  Clock::time_point start_ = Clock::now();
};

/// A group or a broadcast: queued on its lane, then launched and followed by an event.
class NcclRequest final : public Request {
 public:
  /// Makes room for this many messages, so that posting allocates nothing.
  explicit NcclRequest(std::int64_t capacity) { messages_.reserve(static_cast<std::size_t>(capacity)); }
  ~NcclRequest() override;
  NcclRequest(const NcclRequest&) = delete;
  NcclRequest& operator=(const NcclRequest&) = delete;
  bool test() override;

 private:
  friend class NcclLane;
  enum class State : std::uint8_t { idle, queued, launched };

  State state_ = State::idle;
  std::vector<Message> messages_;  // of a group; one, with peer = root, of a broadcast
  bool broadcast_ = false;
  Event event_;
  NcclLane* lane_ = nullptr;     // unless idle
  NcclRequest* next_ = nullptr;  // in the lane's queue
  std::uint32_t polls_ = 0;
};

class NcclLane {
 public:
  /// Creates the communicator. Collective over `size` ranks with equal `id`. `timeout_seconds`: of the creation and of
  /// each registration (0: no bound), and the bound of the end.
  NcclLane(int rank, int size, const ncclUniqueId& id, double timeout_seconds);
  /// Ends the communicator. Collective over the same ranks, unless the lane is aborted.
  ~NcclLane();
  NcclLane(const NcclLane&) = delete;
  NcclLane& operator=(const NcclLane&) = delete;

  void post(std::span<const Message> group, NcclRequest& request);
  void broadcast(const Message& message, NcclRequest& request);
  /// Launches the requests that can be launched.
  void progress();
  /// Throws if NCCL has noticed a failure.
  void check_health() { ready(); }
  /// See Communicator::register_memory. Errors (runtime): not done in time.
  bool register_memory(const MemoryList& memory);
  /// Gives up: a request is destroyed while it is at work. Nothing more can be launched, and the end is an abort.
  void abandon();

  /// Returns NCCL's answer to the question whose windows this rank can map. The lane must be idle.
  NcclTeam window_team();
  /// Makes a window of this rank's `memory`, which is ncclMemAlloc's and not empty, and maps the windows of the team's
  /// others. Collective over the lane's ranks, while it is idle; the sizes: see window_refusal. Returns what
  /// window_address and remove_window take. Errors (runtime): NCCL's own; not done in time. The lane has failed then.
  std::size_t add_window(std::span<std::byte> memory);
  /// Returns where a rank's memory of a window begins here; nullptr: it is not of this rank's team.
  std::byte* window_address(std::size_t window, int rank);
  /// Unmaps the window's memory of others. They may still have this rank's.
  void remove_window(std::size_t window);

  /// Makes a communicator of the same ranks on which calls block, for libraries on top of NCCL; the caller ends it.
  /// Collective over the lane's ranks, while it is idle.
  ncclComm_t split();

 private:
  void enqueue(NcclRequest& request);
  ncclResult_t launch(const NcclRequest& request);
  void launched();
  /// Returns true if nothing is under way on the host side. Throws if NCCL has noticed a failure.
  bool ready();
  /// Returns true if nothing is under way, and nothing has failed.
  bool idle() const { return !failed_ && first_ == nullptr && in_flight_ == 0; }
  bool finalize();
  /// Throws a runtime Error with NCCL's text unless `result` is success or in progress; the lane has failed then.
  void check(ncclResult_t result, const char* what);

  ncclComm_t comm_ = nullptr;
  Stream stream_;
  int rank_;
  double timeout_seconds_;
  bool failed_ = false;
  bool launching_ = false;        // the first of the queue is under way
  NcclRequest* first_ = nullptr;  // queued requests, in the order of posting
  NcclRequest* last_ = nullptr;
  std::int64_t in_flight_ = 0;  // requests launched and not yet seen complete
  std::vector<void*> registrations_;
  std::deque<ncclWindow_t> windows_;  // NCCL's thread writes to an element until it is made

  friend class NcclRequest;
};

/// Returns the library that this process found, in NCCL's code.
int nccl_library_version();

/// Returns what others have to know of this rank.
NcclMember nccl_member();

/// Returns ids that member 0 makes, one for each of `count` communicators. Collective over `members`.
std::vector<ncclUniqueId> nccl_unique_ids(Control& members, int count);

/// Returns a lane of a communicator of make_nccl_communicator. Errors (usage): another kind, e.g. one that an injected
/// bug wraps.
NcclLane& nccl_lane(Communicator& communicator, int lane);

}  // namespace refit::transport
