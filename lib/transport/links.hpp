#pragma once
// What a job moves bytes with: communicators and memory, chosen once for the place where its weights lie. MPI and its
// shared windows for main memory; NCCL and CUDA IPC for devices. Nothing outside asks which.

#include <memory>
#include <string>
#include <vector>

#include "transport/arena.hpp"
#include "transport/communicator.hpp"
#include "transport/progress.hpp"
#include "transport/rates.hpp"

namespace refit::transport {

/// What a communicator is for.
enum class Purpose : std::uint8_t {
  bulk,    ///< the executor's
  gather,  ///< of the source ranks: misc's tensors, whole at source rank 0
  stream   ///< of source rank 0 and the destination ranks: misc's broadcasts
};

/// A world, as a probe measures it.
struct Probed {
  const kernels::ExecutionSpace& space;
  const Places& places;
  Communicator* communicator;          ///< of all ranks; nullptr: there is none
  const PeerMemory* peers;             ///< in which the destination ranks' arenas are mapped; nullptr: there is none
  std::int64_t lanes = 1;              ///< of the communicator
  std::int32_t source_ranks = 0;       ///< the first ones
  ProbedRun run;                       ///< what it imitates
  std::int64_t least_arena_bytes = 0;  ///< of a destination rank's arena, at least
};

class Links {
 public:
  virtual ~Links() = default;
  /// What must be before the first communicator. A note for the reader, or nothing. Collective over the world.
  virtual std::string prepare() = 0;
  /// Of the world ranks `members` (ascending; communicator rank = position), with lanes 0 .. `lanes` - 1; nullptr on
  /// others. Collective over the world.
  virtual std::unique_ptr<Communicator> communicator(Purpose purpose, const std::vector<int>& members,
                                                     std::int64_t lanes) = 0;
  /// An arena of `bytes` on this rank, and those of the ranks that can be mapped. Collective over the world.
  virtual std::unique_ptr<PeerMemory> peer_memory(std::int64_t bytes) = 0;
  /// Memory of this rank alone. Not collective.
  virtual std::unique_ptr<Arena> memory(std::int64_t bytes) = 0;
  /// Checks that the ranks of a host fit in it together, before they allocate. `host`: equal on ranks of one host.
  /// Errors (runtime), on all ranks alike: how much is needed and there, and `advice`. Collective over the world.
  virtual void require_room(int host, std::int64_t bytes, const std::string& advice) = 0;
  /// Whether what the destination ranks store is mapped whatever the executor: probes store into it.
  virtual bool maps_always() const = 0;
  /// Whether a probe needs the communicator of all ranks.
  virtual bool probes_messages() const = 0;
  /// Measures for about `seconds` per rate. Collective over the world.
  virtual ProbedRates probe(const Probed& probed, double seconds) = 0;
  /// The rates as the cost model takes them.
  virtual plan::Rates rates(const ProbedRates& probed, const Places& places) const = 0;
  /// Whether rates depend on the machine's other work, so that they are measured again at the end.
  virtual bool rates_change() const = 0;
};

/// Where this build's kernels run. `world`: of all ranks; must outlive the result. `timeout_seconds`: of one
/// communicator's creation where it can hang (0: none).
std::unique_ptr<Links> make_links(Control& world, double timeout_seconds, Progress& progress);

}  // namespace refit::transport
