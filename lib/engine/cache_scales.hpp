#pragma once
// The scales of an FP8 KV cache on one rank: parameters that refits bring like all weights, and on gen ranks the
// float32 buffers that attention uses instead, made of them at the end of every refit (finalize).
//
// Parameters are verified with all weights; here is the proof that the buffers are those of the train side's scales of
// this refit, neither those of an earlier one nor the engine's default of 1.

#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "engine/setup.hpp"
#include "kernels/memory.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"
#include "verify/result.hpp"

namespace refit::engine {

/// The buffers of every gen rank under the engine's own names, e.g. "model.layers.0.self_attn.attn._k_scale", of each
/// layer those of q, k, v; none where the KV cache is not FP8.
std::vector<std::string> cache_buffers(const Setup& setup);

/// Keeps references to all arguments.
class CacheScales {
 public:
  /// `layout`, `memory`: of this rank, whose side may be either.
  CacheScales(const kernels::ExecutionSpace& space, const Setup& setup, const layout::LocalLayout& layout,
              const transport::LocalMemory& memory);

  /// gen: makes the buffers of what the parameters hold now, or as if nothing had been loaded.
  void finalise(bool as_never_loaded);
  /// gen: the buffers.
  std::vector<checkpoint::DumpTensor> buffers() const;

  /// train: what gen's dtype makes of the scales, in a sentence. Errors (usage): one that no cache may have, by the
  /// name of its source and its own.
  std::string describe() const;

  /// Adds to `result` the buffers of all gen ranks that are not what they become with the scales of world rank 0, which
  /// is a train rank. Collective over `world`; gen ranks and world rank 0 have one of these, others nullptr.
  static void verify(const CacheScales* mine, const Setup& setup, transport::Control& world,
                     verify::StepResult& result);

 private:
  /// What this rank stores now: q, k, v of every layer that has scales, -1 where a layer lacks one.
  std::vector<float> load() const;
  /// The same, rounded to the dtype in which gen stores it.
  std::vector<float> load_as_gen() const;

  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  kernels::SharedBuffer loaded_;
  kernels::CopyTable copies_;  ///< from the storages to loaded_
  std::vector<float> used_;    ///< gen: the buffers
};

}  // namespace refit::engine
