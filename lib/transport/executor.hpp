#pragma once
// Executors: ways to carry out a plan, as often as asked, without allocating. Written once over communicator and peer
// memory.
//
// All executors of a job are made by `make_*` with equal arguments on every rank (each rank its own memory and copies).

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"
#include "plan/plan.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"
#include "transport/progress.hpp"
#include "transport/quantise.hpp"

namespace refit::transport {

/// How the sends, receives and broadcasts of one rank and one `execute` are grouped.
struct Schedule {
  std::int64_t groups = 0;         ///< that are posted
  std::int64_t operations = 0;     ///< of the largest group
  std::int64_t serial_groups = 0;  ///< one after the other: those of the busiest of the streams

  /// Two of them, one after the other.
  friend Schedule operator+(const Schedule& a, const Schedule& b) {
    return {a.groups + b.groups, std::max(a.operations, b.operations), a.serial_groups + b.serial_groups};
  }
};

/// What an executor says of itself or of its last `execute`, by name.
struct Statistic {
  enum class Unit : std::uint8_t {
    part,     ///< seconds of a part of the last `execute`; parts are one after the other
    seconds,  ///< of the last `execute`
    bytes,
    ranks
  };
  const char* name;
  Unit unit;
  double value = 0;
};

/// Moves the weights of one path once per call.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Collective over all ranks that the executor was made on. Destination storages belong to the executor from the
  /// first rank's entry on: callers that look at them between calls put a barrier before this one. On return this
  /// rank's part is complete: what it sends may be changed, what it receives is visible to it.
  virtual void execute() = 0;
  /// Memory beside the storages on this rank, of which messages come and to which they go.
  virtual MemoryList staging() const = 0;
  std::int64_t staging_bytes() const {
    std::int64_t bytes = 0;
    for (const std::span<std::byte> part : staging()) bytes += std::ssize(part);
    return bytes;
  }
  virtual Schedule schedule() const = 0;
  /// The same names, in the same order, on all ranks.
  virtual std::vector<Statistic> statistics() const { return {}; }
};

/// The knobs of the executors: those of a case, then the sizes that decide which way data takes. None changes a byte
/// that arrives.
struct Tuning {
  std::int64_t streams = 4;             ///< stages in flight; of fewer stages, p2p: parts of stages
  std::int64_t group_size = 64;         ///< p2p: sends and receives per group, at most; m2n: tensors
  std::int64_t chunk_bytes = 64 << 20;  ///< p2p: of one chunk of the ring, at least 64
  std::int64_t ring_chunks = 2;         ///< p2p: chunks of the ring, per stage in flight

  std::int64_t message_bytes = std::int64_t{1} << 30;  ///< p2p: of one message, at most: MPI counts are ints
  std::int64_t message_cost_bytes = 8 << 20;  ///< p2p: that one takes as long as: 24 us of NCCL's for each over NVLink
  std::int64_t golden_part_bytes = 64 << 20;  ///< golden: of one broadcast, at most (at least one row): bounds staging
  /// m2n: of a group's shards on the rank that has most, at most (at least one tensor): bounds staging, which is two
  /// groups of each stream.
  std::int64_t reshard_group_bytes = 256 << 20;
  /// direct with fan-out: of a chunk, at most (at least one element). Small enough that the last chunk's way through
  /// its relay is short, large enough that flags cost nothing.
  std::int64_t fan_out_chunk_bytes = 8 << 20;
  kernels::TableSizes table = {};  ///< of the tables of all executors
};

/// World ranks of a copy's two ends: source ranks come first, destination ranks follow.
struct WorldRanks {
  int source;
  int destination;
};
inline WorldRanks world_ranks(const plan::Copy& copy, std::int32_t source_ranks) {
  const bool forwarded = copy.fan_out == plan::FanOut::forwarded;
  return {to_int(copy.source.rank) + (forwarded ? source_ranks : 0), source_ranks + to_int(copy.destination.rank)};
}

/// How ranks of the two sides find each other: one communicator for all stages, or one per source stage whose ranks are
/// that stage's source ranks followed by all destination ranks.
class Routes {
 public:
  /// `communicators`: one, or one per stage (nullptr where this rank has no part). Source rank r is communicator rank
  /// r - first source rank of the stage (single: r); destination rank d follows them.
  Routes(const plan::Layout& source, std::vector<Communicator*> communicators, std::int32_t destination_base);

  std::int32_t stages() const { return source_->stages(); }
  /// One communicator for all stages.
  bool has_one() const { return communicators_.size() == 1; }
  std::int32_t stage(Rank source) const { return source_->stage(source); }
  Communicator& communicator(std::int32_t stage) const;
  /// The communicator of a stage, or nullptr where this rank has no part in it.
  Communicator* find(std::int32_t stage) const;
  int source_peer(Rank rank) const;
  int destination_peer(Rank rank) const;

 private:
  const plan::Layout* source_;
  std::vector<Communicator*> communicators_;
  std::int32_t destination_base_;
  std::int32_t ranks_per_stage_;
};

/// This rank's end of a job: which side it is on, and the memory of that side. A rank may be both (tests, the misc
/// stream): then copies to itself are local.
struct Endpoint {
  Side side = Side::source;
  Rank rank{};
  LocalMemory source;       ///< set where this rank is a source
  LocalMemory destination;  ///< set where this rank is a destination
};

/// Lanes of a stage's own communicator that p2p uses: stages take turns on `streams`; where there are fewer, each has
/// several.
inline std::int64_t lanes_of_stage(std::int64_t streams, std::int32_t stages) {
  return std::max<std::int64_t>(1, streams / stages);
}

/// p2p: bounded groups of sends and receives between exact overlaps. Contiguous copies go zero-copy; strided ones and
/// casts are packed into chunks of a bounded ring, so that pack, wire and unpack overlap. Neighbouring copies of one
/// pair of ranks that are contiguous at both ends are one message.
std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning, Progress& progress);

/// golden: broadcasts whole source shards, box by box; receivers keep what they need. Does not look at a plan's copies,
/// only at the two layouts: too simple to be wrong.
std::unique_ptr<Executor> make_golden(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const plan::Layout& source,
                                      const plan::Layout& destination, const Tuning& tuning, Progress& progress);

/// Weights that direct's source ranks quantise as they send them; nullptr: none.
struct QuantisedSends {
  const Quantise* quantise = nullptr;         ///< of the world's ranks; has run before each `execute`
  const plan::Layout* destination = nullptr;  ///< into which the copies go
};

/// direct: the source rank's kernel writes its copies straight into the destination ranks' final storages through
/// mapped peer memory, casting on the way; one launch per step, then one barrier. Pairs that cannot map each other use
/// p2p. Collective over `world` (world rank = source rank, or `source_ranks` + destination rank). Statistics:
/// "unmapped_peers", the ranks of the other side that share copies with this one and that p2p serves, and "enqueue",
/// the seconds until all of this rank's copies were enqueued.
///
/// Fan-out: relayed copies arrive in chunks (fan_out_chunks); the source raises a flag in `flags` behind each, for
/// which the relay's kernel waits before it forwards the chunk. `flags` is peer memory of fan_out_flag_bytes on every
/// rank, or nullptr where no rank has a relayed copy; all ranks of fan-out map each other in both memories.
///
/// `flags` belong to the executor.
///
/// `sends`: copies of quantised weights, planned from a QuantisedLayout, are then read from the weights themselves, and
/// their bytes and scales stored by the same tiles; copies of these scales are left out. Only where all pairs of ranks
/// can map each other.
std::unique_ptr<Executor> make_direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<plan::Copy>& copies, PeerMemory& peers,
                                      std::unique_ptr<PeerMemory> flags, Control& world, std::int32_t source_ranks,
                                      const Tuning& tuning, Progress& progress, const QuantisedSends& sends = {});

/// The parts in which a relayed copy arrives, and is forwarded, in order. Copies of one box are cut alike, the relayed
/// one and those that forward it: by the bytes on the destination side, where all have one format. Only the relayed one
/// knows what the source stores.
std::vector<Box> fan_out_chunks(const plan::Copy& copy, const Tuning& tuning);

/// Bytes of flags that `rank` of `side` needs for the relayed copies that it receives.
std::int64_t fan_out_flag_bytes(const std::vector<plan::Copy>& copies, Side side, Rank rank, const Tuning& tuning);

/// The misc stream: gathers the tensors of the stream into source rank 0's buffers through a plan, broadcasts them
/// buffer by buffer (two rotate), and places them into destination storages through the destination's own pieces.
/// `gather`: communicator of the source ranks (rank = source rank; nullptr on destination ranks). `stream`:
/// communicator of source rank 0 followed by the destination ranks (nullptr on other source ranks).
std::unique_ptr<Executor> make_misc(const kernels::ExecutionSpace& space, Communicator* gather, Communicator* stream,
                                    const Endpoint& me, const std::vector<model::Tensor>& tensors,
                                    const plan::Layout& source, const plan::Layout& destination,
                                    std::int64_t buffer_bytes, const Tuning& tuning, Progress& progress);

/// Before the first byte: each pair of ranks compares the hash of the copies that they share, places included.
/// Collective over `world`. `tensors`: the model's. Errors (runtime) on all ranks alike: the two ranks and the first
/// tensor that differs.
void agree(Control& world, Side side, Rank rank, std::int32_t source_ranks, const std::vector<plan::Copy>& copies,
           const std::vector<model::Tensor>& tensors);

/// The same for the misc stream, whose boundaries shift with every tensor: all ranks must have rank 0's list, `stream`.
/// Collective over `world`. Errors (runtime) on all ranks alike: a rank that has another, and the first tensor of rank
/// 0's list that is elsewhere in its own.
void agree_on_stream(Control& world, const std::vector<model::Tensor>& stream,
                     const std::vector<model::Tensor>& tensors);

}  // namespace refit::transport
