#pragma once
// Megatron-Core's local layouts (Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2, Transformer Engine's fused
// parameters). The rules for parameters are in rules*.cpp; this file places them on ranks.
//
// Rank order tp-cp-ep-dp-pp: inside a pipeline stage of S = TP x CP x DP ranks, s = r mod S, the non-expert mesh has tp
// = s mod TP, and the expert mesh etp = s mod ETP and ep = s / ETP mod EP: two decompositions of the same ranks, not
// one. Experts are contiguous: EP rank ep has experts [ep E/EP, (ep+1) E/EP).
//
// The embedding is on stage 0, final norm and output layer on the last. Multi-token prediction layers follow the last
// stage's decoder layers, and with PP > 1 bring a copy of the embedding there. A vision tower is on stage 0 only.

#include <memory>
#include <string>
#include <vector>

#include "layout/layout.hpp"
#include "layout/parallelism.hpp"

namespace refit::train::megatron {

/// Options of a case for the train side.
struct Options {
  layout::Parallelism sizes;            ///< dp = 0: the smallest that lets EP x ETP divide TP x CP x DP
  std::int64_t first_stage_layers = 0;  ///< 0 = even split
  std::int64_t last_stage_layers = 0;
  std::vector<std::int64_t> stage_layers;  ///< explicit list; empty = none
  std::string hybrid_layer_pattern;  ///< for Nemotron-H: a letter per layer (M * E -), `|` between stages; or empty
  std::int64_t make_vocab_size_divisible_by = 0;  ///< 0 = vocabulary not padded
  bool mtp = true;                                ///< the trainer builds the model's layers of multi-token prediction
  DType precision = DType::bf16;                  ///< of every parameter but the router's expert bias
  /// Form in which Transformer Engine keeps quantised weights (Float8BlockwiseQTensor, MXFP8); `precision` is that of
  /// all others.
  model::WeightFormat weight_format = model::WeightFormat::unquantised;
};

/// Place of a rank on both meshes.
struct Coordinates {
  std::int64_t tp, cp, dp, etp, ep, edp, pp;
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};
Coordinates coordinates(const layout::Parallelism& sizes, Rank rank);

/// Returns the layers of each stage (Megatron's num_layers_in_first/last_pipeline_stage, the explicit list, or the
/// pattern). On failure returns an empty list and appends the reasons to `violations`.
std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations);

/// Returns every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// Makes the layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::train::megatron
