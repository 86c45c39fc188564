#pragma once
// p2p that sends what has changed: deltas from a copy, on every source rank, of what it sent last.

#include <memory>

#include "transport/executor.hpp"
#include "transport/p2p.hpp"

namespace refit::transport {

/// Makes p2p that sends, from the second `execute` on, the changed elements alone (tuning.delta, which is not off), bit
/// for bit; the first one, and the one after `restart`, sends everything. Destination ranks must still hold what the
/// `execute` before brought them.
///
/// Copies are cut alike at both ends into blocks of at most kernels::kDeltaElements. Source ranks count the changed
/// elements of each and tell the counts of those that have some; from these both ends know the form of every block
/// (delta_form.hpp), and so the messages: blocks one behind another, in chunks of p2p's ring. Where all of this comes
/// to about what p2p sends, p2p sends it. What has not changed costs no byte. Copies to oneself are plain copies.
///
/// Collective over `world`, whose ranks are those of routes.map(); so are `execute` and `restart`. Memory beside the
/// ring: source ranks keep each byte that they send once, and a bit for each element (statistic "kept_bytes");
/// `execute` allocates. Statistics: seconds of the parts of the last `execute`, "delta_bytes", those that this rank has
/// sent in it, "delta_dense_bytes", those that p2p sends, and "delta_changed" of "delta_elements", which are 0 where
/// everything was sent unseen. Errors (runtime): too little memory.
///
/// `ring`: of delta_ring_bytes, with no other executor that runs at the same time; nullptr: one of its own.
std::unique_ptr<Executor> make_delta(const kernels::ExecutionSpace& space, Control& world, const Routes& routes,
                                     const Endpoint& me, const std::vector<plan::Copy>& copies, const Tuning& tuning,
                                     std::shared_ptr<Ring> ring, Progress& progress);

/// Returns the bytes of the ring that these copies need, p2p's included.
std::int64_t delta_ring_bytes(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                              const Tuning& tuning);

/// Names of statistics.
inline constexpr const char* kKeptBytes = "kept_bytes";
inline constexpr const char* kDeltaBytes = "delta_bytes";
inline constexpr const char* kDeltaDenseBytes = "delta_dense_bytes";
inline constexpr const char* kDeltaChanged = "delta_changed";
inline constexpr const char* kDeltaElements = "delta_elements";

}  // namespace refit::transport
