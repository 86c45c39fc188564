#pragma once
// What each mechanism that a refit may use reaches between two ranks: the measurements behind `refit probe`'s tables.
// The rates of the bound are others (rates.hpp): the best of all mechanisms, with all ranks at work.
//
//     PairRates pairs({space, world, peers, communicator, lanes}, 64 << 20, 0.02);
//     pairs.rates(Mechanism::messages, {{0, 1}}, 1 << 20);           // one way, the pair alone
//     pairs.rates(Mechanism::messages, {{0, 1}, {1, 0}}, 1 << 20);   // both ways at once
//     pairs.seconds_of_one(Mechanism::messages, {0, 1}, 4096);

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "transport/communicator.hpp"

namespace refit::transport {

enum class Mechanism : std::uint8_t {
  stores,   ///< a kernel of the sender stores into the receiver's mapped memory
  engines,  ///< copy engines do
  messages  ///< the communicator's send and receive
};
/// Returns "stores", "engines" or "messages".
const char* name(Mechanism mechanism);

/// Bytes on their way from one rank to another.
struct Flow {
  int from = 0, to = 0;
  friend bool operator==(const Flow&, const Flow&) = default;
};

/// What the ranks of a world have to move bytes with.
struct PairMeans {
  const kernels::ExecutionSpace& space;
  Control& world;
  const PeerMemory* peers;     ///< maps other ranks' arenas; nullptr: there is none
  Communicator* communicator;  ///< of all ranks; nullptr: there is none
  int lanes = 1;               ///< of the communicator, that executors use
};

/// Measurements of pairs. Every function is collective over the world and returns the same on all its ranks, unless it
/// says otherwise.
class PairRates {
 public:
  /// `most_bytes`: of a transfer; arenas have as many, or more. `seconds`: spent on repeating one measurement. A
  /// message that takes long is not repeated: a slow link shows its rate at once. Overwrites this rank's arena.
  PairRates(const PairMeans& means, std::int64_t most_bytes, double seconds);

  /// Returns whether bytes get from one rank to another by this mechanism. Not collective.
  bool serves(Mechanism mechanism, const Flow& flow) const;
  /// Returns the bytes per second of each flow, all of them at work at once, each with transfers of `bytes` that follow
  /// each other without a pause. Messages: on one lane or on all, whichever is better; on one where they take long. No
  /// rank sends, or receives, in two flows; `serves` must hold for each.
  std::vector<double> rates(Mechanism mechanism, const std::vector<Flow>& flows, std::int64_t bytes);
  /// Returns the seconds of one transfer from its start until it is complete, with nothing else under way; of messages
  /// half the time until an equal answer is there.
  double seconds_of_one(Mechanism mechanism, const Flow& flow, std::int64_t bytes);

 private:
  /// Does a transfer so many times, and waits for the end of the last.
  using Run = std::function<void(int times)>;

  /// Returns the seconds of each flow's transfer: until both its ranks have done what they run, of the best of a few
  /// repetitions. `active`: this rank has something to run.
  std::vector<double> timed(Mechanism mechanism, const std::vector<Flow>& flows, bool active, const Run& run);
  std::vector<double> timed_stores(Mechanism mechanism, const std::vector<Flow>& flows, std::int64_t bytes,
                                   bool one_by_one);
  std::vector<double> timed_messages(const std::vector<Flow>& flows, std::int64_t bytes, int lanes);
  bool sends(const std::vector<Flow>& flows) const;

  PairMeans means_;
  std::int64_t most_bytes_;
  double seconds_;
  std::vector<Control::Bytes> reached_;   ///< by rank: a byte for each rank, how its memory is reached
  kernels::DeviceBuffer source_, inbox_;  ///< to send from, to receive in
};

}  // namespace refit::transport
