#pragma once
// The state of a mesh: who its ranks are, their connections, and what all functions that wait have in common.

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "transport/sockets.hpp"
#include "transport/sockets/address.hpp"
#include "transport/sockets/frames.hpp"

namespace refit::transport {

/// What a caller says first.
struct Hello {
  Token token{};
  std::int64_t number = 0;
  std::int32_t rank = 0, lane = 0;
};

class SocketMesh::State final : public MeshEvents {
 public:
  State(int rank, int size, const AllGather& all_gather, SocketOptions options);
  ~State() override;

  int rank() const override { return rank_; }
  int size() const { return static_cast<int>(cards_.size()); }
  std::string describe(int rank) const;
  void set_timeout(double seconds) { options_.timeout_seconds = seconds; }
  void set_progress(Progress* progress) { options_.progress = progress; }
  Progress* progress() const { return options_.progress; }
  Poller& poller() { return poller_; }
  ControlChannel& channel(int rank) { return *channels_[static_cast<std::size_t>(rank)]; }

  /// Says goodbye. No other function may be called after it, but `check`, which throws.
  void close();
  /// Throws the reason for which the mesh is broken, if it is.
  void check();
  /// Breaks the mesh, tells all ranks, and throws PeerError.
  [[noreturn]] void fail(int culprit, const std::string& text);
  /// Breaks the mesh likewise, and throws nothing: an exception is on its way already. `what`: this rank has done.
  void leave(const char* what) noexcept;

  /// Moves what can be moved; waits up to `milliseconds` for something to do.
  void poll(int milliseconds);
  /// Waits until `done`, for `peer`.
  void wait(const bool& done, int peer);
  /// Notes that this rank still waits for `peer` and nothing has moved, or something has: fails when it has waited for
  /// too long.
  void still_waiting_for(int peer);
  /// Fails where whoever may interrupt this rank does.
  void ask_for_interruption();
  /// Notes that this rank's wait is over.
  void waited();
  /// Fails: a connection of a communicator has ended.
  [[noreturn]] void lost(int peer);

  /// Connects this rank with all other `members` (world ranks, ascending), `lanes` times. Returns the connections by
  /// lane and member; none with itself. Collective over `members`, with the same `number`.
  std::vector<Descriptor> connect(std::int64_t number, const std::vector<int>& members, int lanes);
  /// Returns the next number for a communicator; collective over the world.
  std::int64_t take_number() { return next_number_++; }
  /// Returns the next number for a control plane of all ranks, which make them in the same order.
  std::uint64_t take_plane() { return next_plane_++; }

  void moved() override { ++moves_; }
  [[noreturn]] void gone(int peer, int error) override;
  [[noreturn]] void aborted(int culprit, const std::string& text) override;
  [[noreturn]] void out_of_step(int peer, const Occasion& theirs, const Occasion& mine) override;
  [[noreturn]] void unequal(int peer, std::int64_t sent, std::int64_t wanted, const Occasion& occasion) override;
  void awaited(int peer, const Occasion& theirs) override;

  /// The call of a control plane that this rank is in; nullptr: none.
  const Occasion* occasion = nullptr;

 private:
  friend class Meeting;
  using Arrival = std::tuple<std::int64_t, int, int>;  ///< number, rank, lane

  /// Somebody who calls.
  struct Caller {
    Descriptor socket;
    Hello hello = {};
    std::size_t got = 0;
    bool done = false;
  };

  void introduce(const AllGather& all_gather);
  void end_all(const Frame& frame, const std::string& text);
  void tell_that_waits(int peer);
  [[noreturn]] void late(int peer);
  std::string phase() const;

  int rank_;
  SocketOptions options_;
  int forks_;
  Listeners listeners_;
  std::vector<Card> cards_;  ///< by rank
  Token token_{};
  Poller poller_;
  std::vector<std::unique_ptr<ControlChannel>> channels_;  ///< by rank; this rank has none
  std::multimap<Arrival, Descriptor> arrivals_;            ///< connections that nobody has asked for yet, in order
  std::vector<Caller> callers_;                            ///< who has called and not said all of its hello
  std::set<int> apart_;                                    ///< ranks of this host that only TCP reaches
  std::int64_t next_number_ = 0;
  std::uint64_t next_plane_ = 0;
  std::optional<PeerError> broken_;
  bool closed_ = false;

  std::uint64_t moves_ = 1, seen_moves_ = 0;
  double waited_seconds_ = 0;  ///< since anything has moved
  double last_look_ = 0;
  double last_asked_ = 0;
  int told_ = -1;  ///< the rank that all others have been told this one waits for
};

}  // namespace refit::transport
