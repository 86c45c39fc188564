#pragma once
// The scales of an FP8 KV cache on one rank: parameters that refits bring like all weights, and on gen ranks the
// float32 buffers that attention uses instead. The buffers are made of the parameters at the end of every refit
// (finalize).
//
// Parameters are verified with all weights. CacheScales proves that the buffers are made of the train side's scales of
// this refit, not of an earlier refit's scales nor of the engine's default of 1.

#include <string>
#include <vector>

#include "case/setup.hpp"
#include "checkpoint/checkpoint.hpp"
#include "kernels/memory.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Setup;

/// Returns the buffers of every gen rank under the engine's own names, e.g. "model.layers.0.self_attn.attn._k_scale":
/// for each layer those of q, k, v; none where the KV cache is not FP8.
std::vector<std::string> cache_buffers(const Setup& setup);

/// The scales of one rank. Keeps references to all arguments.
class CacheScales {
 public:
  /// `layout` and `memory` are of this rank, of either side.
  CacheScales(const kernels::ExecutionSpace& space, const Setup& setup, const layout::LocalLayout& layout,
              const transport::LocalMemory& memory);

  /// gen: makes the buffers of the parameters' present values, or as if nothing had been loaded.
  void finalise(bool as_never_loaded);
  /// gen: returns the buffers.
  std::vector<checkpoint::DumpTensor> buffers() const;

  /// train: describes in a sentence how gen's dtype changes the scales. Errors (usage): a scale that no cache may have,
  /// by the name of its source and its own.
  std::string describe() const;

  /// Adds to `result` the buffers of all gen ranks that differ from those made of the scales of train rank 0, which is
  /// world rank 0. Collective over `world`; train rank 0 has `truth`, gen ranks have `mine`, others nullptr.
  static void verify(const CacheScales* truth, const CacheScales* mine, const Setup& setup, transport::Control& world,
                     verify::StepResult& result);

 private:
  /// Returns the scales that this rank stores now: q, k, v of every layer that has scales, -1 where a layer lacks one.
  std::vector<float> load() const;
  /// Returns the scales likewise, rounded to the dtype in which gen stores them.
  std::vector<float> load_as_gen() const;

  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  kernels::SharedBuffer loaded_;
  kernels::CopyTable copies_;  ///< from the storages to loaded_
  std::vector<float> used_;    ///< gen: the buffers
};

}  // namespace refit::engine
