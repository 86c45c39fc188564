#pragma once
// One rank's weights: how they are loaded, how they change between refits, and how they are dumped.

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "case/setup.hpp"
#include "checkpoint/checkpoint.hpp"
#include "checkpoint/synthetic.hpp"
#include "kernels/kernels.hpp"
#include "transport/memory.hpp"
#include "verify/rank_view.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Setup;

/// The key of run.update in a dump's metadata: what is not "none" has changed the weights that the run read.
inline constexpr const char* kUpdateFact = "run.update";

/// The result of loading.
struct Loaded {
  checkpoint::ReadStatistics statistics;
  std::vector<std::int32_t> rounded;        ///< tensors some of whose values this rank's dtype does not have
  std::vector<verify::Overflow> overflows;  ///< of this rank's parts: in the file finite, but not here
};

/// The weights of one rank of one side, in memory that the caller owns.
class Weights {
 public:
  Weights(const Setup& setup, const layout::LocalLayout& layout, Group group, Rank rank,
          const transport::LocalMemory& memory);

  const transport::LocalMemory& memory() const { return memory_; }
  verify::RankView view() const;

  /// Loads the checkpoint's values, a calibration's, or synthetic ones of run.seed, then the constant parts. On train
  /// these are the values of all tensors; on gen, memory is first filled with a pattern that no weight has in every
  /// byte, and only tensors that train does not store are loaded. Errors (usage): a short file; a tied checkpoint whose
  /// lm_head differs from its embedding.
  Loaded load(const kernels::ExecutionSpace& space,
              const std::function<void(std::int64_t, std::int64_t)>& progress) const;
  /// Returns whether a tensor is concerned.
  using Which = std::function<bool(const model::Tensor&)>;
  /// train: changes each storage once, in place of an optimiser's step: this fraction of its elements. Leaves out
  /// tensors that `leaves_out`.
  void update(const kernels::ExecutionSpace& space, std::int64_t step, double fraction, const Which& leaves_out) const;
  /// train: flips one bit in each of these tensors.
  void flip_bits(const kernels::ExecutionSpace& space, const Which& which) const;
  /// Writes every storage under the engine's own name, and `buffers`, to a file for each model chunk, as those of a
  /// rank of `side`.
  void dump(const std::string& folder, const layout::Layout& side, Rank rank,
            const std::vector<checkpoint::DumpTensor>& buffers) const;

 private:
  std::vector<const layout::LocalPiece*> own_pieces() const;
  kernels::Region region(const layout::LocalPiece& piece) const;
  void fill(const kernels::ExecutionSpace& space) const;
  bool is_read(const layout::LocalPiece& piece) const;
  void make(const kernels::ExecutionSpace& space, const layout::LocalPiece& piece) const;
  void synthesise(const kernels::ExecutionSpace& space, const layout::LocalPiece& piece) const;
  Loaded read_checkpoints(const kernels::ExecutionSpace& space,
                          const std::function<void(std::int64_t, std::int64_t)>& progress) const;
  Loaded read_checkpoint(const kernels::ExecutionSpace& space, const checkpoint::Checkpoint& files,
                         const std::function<void(std::int64_t, std::int64_t)>& progress) const;
  void require_equal_values(const kernels::ExecutionSpace& space) const;

  const Setup& setup_;
  const layout::LocalLayout& layout_;
  Group group_;
  Rank rank_;
  transport::LocalMemory memory_;
  checkpoint::Synthetic synthetic_;
};

/// Returns the fingerprint of a whole tensor of its source (checkpoint, or run.seed), in `dtype`.
Sum128 source_fingerprint(const kernels::ExecutionSpace& space, const Setup& setup, const model::Tensor& tensor,
                          DType dtype);

}  // namespace refit::engine
