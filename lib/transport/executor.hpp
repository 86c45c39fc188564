#pragma once
// Executors: ways to carry out a plan repeatedly without allocating. They are written once, over communicator and peer
// memory.
//
// All executors of a job are made by `make_*` with equal arguments on every rank (each rank its own memory and copies).

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/engine_copies.hpp"
#include "kernels/kernels.hpp"
#include "plan/model.hpp"
#include "plan/plan.hpp"
#include "transport/communicator.hpp"
#include "transport/delta_form.hpp"
#include "transport/memory.hpp"
#include "transport/progress.hpp"
#include "transport/quantise.hpp"

namespace refit::transport {

/// The grouping of the sends, receives and broadcasts of one rank and one `execute`.
struct Schedule {
  std::int64_t groups = 0;         ///< groups that are posted
  std::int64_t operations = 0;     ///< of the largest group
  std::int64_t serial_groups = 0;  ///< one after the other, on the busiest stream

  /// Adds two schedules, one after the other.
  friend Schedule operator+(const Schedule& a, const Schedule& b) {
    return {a.groups + b.groups, std::max(a.operations, b.operations), a.serial_groups + b.serial_groups};
  }
};

/// A number about an executor or its last `execute`, by name.
struct Statistic {
  enum class Unit : std::uint8_t {
    part,     ///< seconds of a part of the last `execute`; parts are one after the other
    seconds,  ///< of the last `execute`
    bytes,    ///< of memory beside staging: that a library under the executor takes, or that is kept
    moved,    ///< bytes, by each `execute`
    elements,
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
  /// Moves the weights. Collective over all ranks that the executor was made on. Destination storages belong to the
  /// executor from the first rank's entry on: callers that look at them between calls put a barrier before this one. On
  /// return this rank's part is complete: weights that it sends may be changed, and weights that it receives are
  /// visible to it.
  virtual void execute() = 0;
  /// Forgets what the destination ranks hold: the next `execute` sends everything, as the first one does. To be called
  /// on all ranks alike, wherever storages of a destination rank may have changed since the last `execute`.
  virtual void restart() {}
  /// Exchanges a small message with every peer on every lane on which `execute` does: communicators that connect with
  /// the first message of a pair have then done so. Changes no storage. Collective like `execute`, before its first
  /// call, among ranks that agree on the plan.
  virtual void connect() {}
  /// Returns the memory beside the storages on this rank from which messages come and to which they go.
  virtual MemoryList staging() const = 0;
  std::int64_t staging_bytes() const {
    std::int64_t bytes = 0;
    for (const std::span<std::byte> part : staging()) bytes += std::ssize(part);
    return bytes;
  }
  virtual Schedule schedule() const = 0;
  /// Returns statistics: the same names, in the same order, on all ranks.
  virtual std::vector<Statistic> statistics() const { return {}; }
};

/// The parameters of the executors: those of a case, then the sizes that decide which way data takes. None changes a
/// byte that arrives.
struct Tuning {
  std::int64_t streams = 4;             ///< stages in flight; p2p with fewer stages: parts of stages
  std::int64_t group_size = 64;         ///< p2p: most sends and receives per group; m2n: tensors
  std::int64_t chunk_bytes = 64 << 20;  ///< p2p: bytes of one chunk of the ring, at least 64
  std::int64_t ring_chunks = 2;         ///< p2p: chunks of the ring, per stage in flight

  std::int64_t message_bytes = std::int64_t{1} << 30;  ///< p2p: most bytes of one message: MPI counts are ints
  /// p2p: segments smaller than this are packed with others of their pair; not set: as is best on the device, or host.
  std::optional<std::int64_t> small_bytes = {};
  std::int64_t packed_bytes = 16 << 20;       ///< p2p: most bytes of a packed message
  std::int64_t message_cost_bytes = 8 << 20;  ///< p2p: fixed cost of a message, as bytes: 24 us of NCCL over NVLink
  std::int64_t golden_part_bytes = 64 << 20;  ///< golden: most bytes of one broadcast (or one row): bounds staging
  /// m2n: most bytes of a group's shards on the rank that has most (at least one tensor). It bounds staging, which is
  /// two groups of each stream.
  std::int64_t reshard_group_bytes = 256 << 20;
  /// direct with fan-out: most bytes of a chunk (at least one element). Small enough that the last chunk's way through
  /// its relay is short, large enough that flags cost nothing.
  std::int64_t fan_out_chunk_bytes = 8 << 20;
  plan::HandedOn handed_on = {};      ///< direct with fan-out between hosts
  Delta delta = Delta::off;           ///< p2p: what a refit that follows another one sends
  kernels::TableSizes table = {};     ///< of the tables of all executors
  kernels::EngineSizes engines = {};  ///< direct: of copies to other devices; by default kernels do all of them
};

/// World ranks of a copy's two ends.
struct WorldRanks {
  int source;
  int destination;
};
inline WorldRanks world_ranks(const plan::Copy& copy, const WorldMap& map) {
  const bool forwarded = copy.is_from_taker();
  return {map.world_rank(forwarded ? Side::destination : Side::source, copy.source.rank),
          map.world_rank(Side::destination, copy.destination.rank)};
}

/// Returns the world ranks, ascending, of the communicator of a source stage: that stage's source ranks and all
/// destination ranks.
std::vector<int> members_of_stage(const plan::Layout& source, const WorldMap& map, std::int32_t stage);

/// The communicators between the ranks of the two sides: one of the whole world for all stages, or one per source
/// stage.
class Routes {
 public:
  /// `communicators`: one, or one per stage of members_of_stage (nullptr where this rank has no part).
  Routes(const plan::Layout& source, std::vector<Communicator*> communicators, const WorldMap& map);

  const WorldMap& map() const { return map_; }
  std::int32_t stages() const { return source_->stages(); }
  /// Returns whether one communicator serves all stages.
  bool has_one() const { return communicators_.size() == 1; }
  std::int32_t stage(Rank source) const { return source_->stage(source); }
  Communicator& communicator(std::int32_t stage) const;
  /// Returns the communicator of a stage, or nullptr where this rank has no part in it.
  Communicator* find(std::int32_t stage) const;
  /// Return the ranks of a source rank, and of a destination rank, in the communicator of a stage.
  int source_peer(Rank rank) const { return peer(source_->stage(rank), map_.world_rank(Side::source, rank)); }
  int destination_peer(Rank rank, std::int32_t stage) const {
    return peer(stage, map_.world_rank(Side::destination, rank));
  }

 private:
  int peer(std::int32_t stage, int world_rank) const;

  const plan::Layout* source_;
  std::vector<Communicator*> communicators_;
  WorldMap map_;
  std::vector<std::vector<int>> members_;  ///< by stage; empty where one communicator serves all
};

/// This process's end of a job: the ranks that it is, and their memory.
struct Endpoint {
  OwnRanks self;
  LocalMemory source;       ///< set where this process is a source rank
  LocalMemory destination;  ///< set where it is a destination rank

  bool sends(const plan::Copy& copy) const { return plan::sends(self, copy); }
  bool receives(const plan::Copy& copy) const { return plan::receives(self, copy); }
};

/// Returns the lanes of a stage's own communicator that p2p uses: stages take turns on `streams`; where there are fewer
/// stages, each has several lanes.
inline std::int64_t lanes_of_stage(std::int64_t streams, std::int32_t stages) {
  return std::max<std::int64_t>(1, streams / stages);
}

/// Makes p2p: bounded groups of sends and receives between exact overlaps. Contiguous copies go zero-copy; strided ones
/// and casts are packed into chunks of a bounded ring, so that pack, wire and unpack overlap. Neighbouring copies of
/// one pair of ranks that are contiguous at both ends are one message, and so are small ones, packed (segment.hpp).
std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning, Progress& progress);

/// Makes golden: broadcasts of whole source shards, box by box; receivers keep the parts that they need. A rank that is
/// on both sides takes what it holds from itself; shards that nobody else needs are not broadcast. It reads no plan's
/// copies, only the two layouts: too simple to be wrong.
std::unique_ptr<Executor> make_golden(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const plan::Layout& source,
                                      const plan::Layout& destination, const Tuning& tuning, Progress& progress);

/// Weights that direct's source ranks quantise as they send them; nullptr: none.
struct QuantisedSends {
  const Quantise* quantise = nullptr;         ///< of the world's ranks; has run before each `execute`
  const plan::Layout* destination = nullptr;  ///< layout into which the copies go
};

/// Makes direct: the source rank writes its copies straight into the destination ranks' final storages through mapped
/// peer memory, then there is one barrier. Copy engines take what Tuning::engines lets them, to other devices only:
/// what stays on a device is a kernel's at the same time, since both would wait for each other in one queue. One launch
/// does everything else, casting on the way. Pairs that cannot map each other use p2p. Collective over `world`, whose
/// ranks are `map`'s. Statistics: "unmapped_peers", the number of ranks that share copies with this one and are served
/// by p2p, "engine_bytes", those that copy engines move, and "enqueue", the seconds until all of this rank's copies
/// were enqueued.
///
/// Relayed and forwarded copies are a kernel's: flags behind chunks of 8 MiB let the engines reach 346 GB/s (batches of
/// 8 chunks: 375, and a relay that is far behind), and a kernel stores 370.
///
/// `tensors`: those of the plan, the same on all ranks.
///
/// Fan-out: the ranks that feed each other map each other. Relayed copies of a source that maps the relay arrive in
/// chunks (fan_out_chunks); the source raises a flag in `flags` behind each chunk, and the relay's kernel waits for it
/// before it forwards the chunk. `flags` is peer memory of fan_out_flag_bytes on every rank, or nullptr where no rank
/// has a relayed copy; who maps a rank's storages maps its flags. Other relayed copies come as messages, group by
/// group, and each group is forwarded once it is there (p2p.hpp).
/// Copies that domains hand on are messages, too (rounds.hpp).
///
/// `flags` belong to the executor.
///
/// With `sends`, copies of quantised weights, planned from a QuantisedLayout, are read from the weights themselves, and
/// the same tiles store their bytes and scales; copies of these scales are left out. Only where all pairs of ranks can
/// map each other.
std::unique_ptr<Executor> make_direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const std::vector<plan::Copy>& copies,
                                      PeerMemory& peers, std::unique_ptr<PeerMemory> flags, Control& world,
                                      const WorldMap& map, const Tuning& tuning, Progress& progress,
                                      const QuantisedSends& sends = {});

/// Returns the parts in which a relayed copy arrives, and is forwarded, in order. All copies of one box, the relayed
/// one and those that forward it, are cut alike: by the bytes on the destination side, where all have one format. Only
/// the relayed copy knows the source's format.
std::vector<Box> fan_out_chunks(const plan::Copy& copy, const Tuning& tuning);

/// Returns the bytes of flags that a process needs for the relayed copies that it receives.
std::int64_t fan_out_flag_bytes(const std::vector<plan::Copy>& copies, const OwnRanks& own, const Tuning& tuning);

/// Makes the misc stream: gathers the tensors of the stream into source rank 0's buffers through a plan, broadcasts
/// them buffer by buffer (two rotate), and places them into destination storages through the destination's own pieces.
/// `gather`: communicator of the source ranks (rank = source rank; nullptr on destination ranks). `stream`:
/// communicator of source rank 0 and the destination ranks, ascending (nullptr on other ranks). `placement`: of all
/// ranks, so that what is gathered comes from holders that are near; empty: none are.
std::unique_ptr<Executor> make_misc(const kernels::ExecutionSpace& space, Communicator* gather, Communicator* stream,
                                    const Endpoint& me, const std::vector<model::Tensor>& tensors,
                                    const plan::Layout& source, const plan::Layout& destination,
                                    const plan::Placement& placement, std::int64_t buffer_bytes, const Tuning& tuning,
                                    Progress& progress);

/// Compares, before the first byte, the hash of the copies that each pair of ranks shares, in both directions, places
/// included. Collective
/// over `world`. `tensors`: the model's. Errors (runtime) on all ranks alike: the two ranks and the first tensor that
/// differs.
void agree(Control& world, const WorldMap& map, const std::vector<plan::Copy>& copies,
           const std::vector<model::Tensor>& tensors);

/// Compares the misc streams likewise, whose boundaries shift with every tensor: all ranks must have rank 0's list,
/// `stream`. Collective over `world`. Errors (runtime) on all ranks alike: a rank that has another list, and the first
/// tensor of rank 0's list that is elsewhere in it.
void agree_on_stream(Control& world, const std::vector<model::Tensor>& stream,
                     const std::vector<model::Tensor>& tensors);

}  // namespace refit::transport
