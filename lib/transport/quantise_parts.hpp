#pragma once
// Weights that are quantised on the way to formats whose scales may follow from a whole tensor or row: NVFP4, MXFP4,
// FP8 with a scale for a tensor or each row, INT4. Each train rank makes, of its own pieces, the values and scales that
// gen gets, in memory from which they are sent.
//
// Magnitudes of several ranks' pieces are joined by one reduction for all weights: a word for each tensor scale, and
// for each row of weights whose columns train cuts. E.g. NVFP4 of 36 layers of Qwen3: 4 words a layer, for qkv, o,
// gate and up, down.

#include <memory>

#include "transport/quantise.hpp"

namespace refit::transport {

/// The quantisation of one rank's weights, made once and run in every refit without allocating.
class QuantiseParts {
 public:
  /// Prepares. Collective over `world`, whose first ranks are the train ranks. `library` has kernels for the format of
  /// model.quantisation, and no piece cuts through a block of columns (layout::cut_through_blocks).
  QuantiseParts(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Library library,
                const QuantisedPieces& mine);
  ~QuantiseParts();
  QuantiseParts(const QuantiseParts&) = delete;
  QuantiseParts& operator=(const QuantiseParts&) = delete;

  /// Returns whether `run` has anything to do; the same on all ranks.
  bool is_needed() const;
  /// Returns whether train ranks reduce magnitudes; the same on all ranks.
  bool reduces() const;
  /// Quantises; complete on return. Collective over the train ranks; others have nothing to do. Returns the seconds of
  /// the reduction on this rank. With `keeps_magnitudes` those of the run before are taken, as an injected bug wants.
  double run(bool keeps_magnitudes = false);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace refit::transport
