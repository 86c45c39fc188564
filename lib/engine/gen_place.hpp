#pragma once
// One place of gen's storages and everything that an engine makes of them: buffers of the KV cache's scales, derived
// and processed storages. A staged refit has two places, each with its own, so that what is made is flipped with what
// it is made of.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/cache_scales.hpp"
#include "engine/derived.hpp"
#include "engine/processing.hpp"
#include "engine/weights.hpp"
#include "inject/lies.hpp"

namespace refit::engine {

/// Every rank of the job has one for each place; one that is no gen rank has train's part in the proofs. Keeps
/// references to all arguments.
class GenPlace {
 public:
  /// `source`, `destination`: this process's memory as a rank of either side, destination's in this place; `weights`:
  /// of a gen rank, there.
  GenPlace(const kernels::ExecutionSpace& space, const Setup& setup, const inject::Lies& lies, const OwnRanks& own,
           const std::optional<session::SideMemory>& source, const std::optional<session::SideMemory>& destination,
           const Weights* weights);

  /// Returns the bytes that a gen rank takes for what it makes in one place.
  static std::int64_t bytes(const Setup& setup, Rank rank);

  /// Makes the storages. Returns sentences about them, at world rank 0. Collective over `world`.
  std::vector<std::string> make(transport::Control& world, transport::Links& links);
  /// Called before refit 1, 2, ... begins.
  void begin(std::int64_t refit);
  /// Called when refit 1, 2, ... has arrived in this place.
  void finalise(std::int64_t refit);
  /// Adds to `result` what is not as it should be. `truth`: the cache's scales of train rank 0, there. Collective over
  /// `world`.
  void verify(const CacheScales* truth, transport::Control& world, verify::StepResult& result);
  /// Writes this gen rank's storages, and what was made of them, as those of a rank of `side`.
  void dump(const std::string& folder, const layout::Layout& side, Rank rank) const;

 private:
  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  const inject::Lies& lies_;
  const OwnRanks own_;
  const Weights* weights_;
  session::OwnMemory memory_;
  std::optional<inject::Arrived> arrived_;
  std::unique_ptr<CacheScales> cache_scales_;  ///< where gen's KV cache is FP8
  std::unique_ptr<Derived> derived_;           ///< where the engine derives storages of its weights
  std::unique_ptr<Processing> processing_;     ///< where it makes others of them by arithmetic
};

}  // namespace refit::engine
