#pragma once
// p2p's staging memory, for executors that are made of several p2p executors run one after the other (the misc stream).

#include <functional>
#include <memory>

#include "kernels/memory.hpp"
#include "transport/executor.hpp"
#include "transport/segment.hpp"

namespace refit::transport {

/// The memory of a ring of chunks: allocated whole on first use, zero at first (what is read too early is then known
/// for it), never moved.
class Ring {
 public:
  explicit Ring(std::int64_t bytes) : bytes_(bytes) {}
  std::byte* memory();
  /// Returns the memory that is allocated so far: nothing or all.
  std::span<std::byte> allocated() const { return memory_.span(); }

 private:
  std::int64_t bytes_;
  kernels::DeviceBuffer memory_;
};

/// Returns the bytes of the ring that p2p needs at most with this tuning.
std::int64_t ring_bytes(const Tuning& tuning);
/// Returns the bytes of the ring that p2p needs for its groups of these copies.
std::int64_t ring_bytes(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                        const Tuning& tuning);

/// Returns the tuning with which misc gathers, from `stages` source stages, into a buffer of `capacity` bytes.
Tuning gather_tuning(Tuning tuning, std::int64_t stages, std::int64_t capacity);

/// Appends the tiles that forward a part of a relayed copy that this rank has received.
using Forward = std::function<void(const plan::Copy& part, std::vector<kernels::Tile>& tiles)>;

/// Makes p2p like the other make_p2p, staging in `ring` (of ring_bytes of all its executors), which no other executor
/// may use at the same time (nullptr: one of its own). `forward`: what is done with relayed copies (nullptr: nothing);
/// the tiles are stored behind the arrival of their group, whose relayed parts are a chunk at most, while the groups
/// behind it are on their way.
std::unique_ptr<Executor> make_p2p(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                   const std::vector<plan::Copy>& copies, const Tuning& tuning,
                                   std::shared_ptr<Ring> ring, Progress& progress, const Forward& forward = {});

}  // namespace refit::transport
