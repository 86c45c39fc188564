#pragma once
// The means by which a job moves bytes: communicators and memory, chosen once for the place where its weights lie. NCCL
// and CUDA IPC serve devices; MPI (mpi/mpi.hpp) or sockets (sockets.hpp) serve main memory. Nothing outside asks which.

#include <memory>
#include <string>
#include <vector>

#include "transport/arena.hpp"
#include "transport/communicator.hpp"
#include "transport/progress.hpp"
#include "transport/rates.hpp"

namespace refit::transport {

/// Purpose of a communicator.
enum class Purpose : std::uint8_t {
  bulk,    ///< the executor's
  gather,  ///< of the source ranks: misc's tensors, whole at source rank 0
  stream   ///< of source rank 0 and the destination ranks: misc's broadcasts
};

/// A world that a probe measures.
struct Probed {
  const kernels::ExecutionSpace& space;
  const Places& places;
  Communicator* communicator;          ///< of all ranks; nullptr: there is none
  const PeerMemory* peers;             ///< maps the destination ranks' arenas; nullptr: there is none
  std::int64_t lanes = 1;              ///< of the communicator
  WorldMap map;                        ///< of the world's ranks
  ProbedRun run;                       ///< the run that the probe imitates
  std::int64_t least_arena_bytes = 0;  ///< least size of a destination rank's arena
};

class Links {
 public:
  virtual ~Links() = default;
  /// Prepares for the first communicator. Returns a note for the reader, or nothing. Collective over the world.
  virtual std::string prepare() = 0;
  /// Makes a communicator of the world ranks `members` (ascending; communicator rank = position), with lanes 0 ..
  /// `lanes` - 1; nullptr on others. Collective over the world.
  virtual std::unique_ptr<Communicator> communicator(Purpose purpose, const std::vector<int>& members,
                                                     std::int64_t lanes) = 0;
  /// Makes an arena of `bytes` on this rank, and maps those of the other ranks where possible. Collective over the
  /// world.
  virtual std::unique_ptr<PeerMemory> peer_memory(std::int64_t bytes) = 0;
  /// Allocates memory of this rank alone. Not collective.
  virtual std::unique_ptr<Arena> memory(std::int64_t bytes) = 0;
  /// Checks that the memory of all ranks of a host fits in it, before they allocate. `host`: equal on ranks of one
  /// host. Errors (runtime), on all ranks alike: the needed and the available amounts, and `advice`. Collective over
  /// the world.
  virtual void require_room(int host, std::int64_t bytes, const std::string& advice) = 0;
  /// Returns whether the destination ranks' storages are mapped whatever the executor: probes store into them.
  virtual bool maps_always() const = 0;
  /// Returns whether a probe needs the communicator of all ranks.
  virtual bool probes_messages() const = 0;
  /// Measures for about `seconds` per rate. Collective over the world.
  virtual ProbedRates probe(const Probed& probed, double seconds) = 0;
  /// Returns the rates in the cost model's form.
  virtual plan::Rates rates(const ProbedRates& probed, const Places& places) const = 0;
  /// Returns whether rates depend on the machine's other work, so that they are measured again at the end.
  virtual bool rates_change() const = 0;
};

/// How the memory of devices may be mapped.
enum class DeviceMapping : std::uint8_t {
  best,  ///< by NCCL windows where they can be, by CUDA IPC otherwise
  ipc    ///< by CUDA IPC: no communicator is made for it
};

/// Makes links by NCCL and the memory of devices. `world`: of all ranks; must outlive the result. `timeout_seconds`: of
/// one communicator's creation (0: none).
std::unique_ptr<Links> make_device_links(Control& world, double timeout_seconds, Progress& progress,
                                         DeviceMapping mapping = DeviceMapping::best);

}  // namespace refit::transport
