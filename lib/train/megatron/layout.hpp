#pragma once
// Megatron-Core's local layouts (Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2, Transformer Engine's fused
// parameters). The rules for parameters are in rules*.cpp; this file places them on ranks.
//
// Rank order tp-cp-ep-dp-pp: inside a pipeline stage of S = TP x CP x DP ranks, s = r mod S, the non-expert mesh has tp
// = s mod TP, and the expert mesh etp = s mod ETP and ep = s / ETP mod EP: two decompositions of the same ranks, not
// one. Experts are contiguous: EP rank ep has experts [ep E/EP, (ep+1) E/EP).
//
// A rank has one model chunk, or several with virtual stages; names begin anew in each (pipeline.hpp). The embedding is
// in the first section of the pipeline, final norm and output layer in the last. Multi-token prediction layers follow
// the last section's decoder layers, or are where a layout string has them, and bring a copy of the embedding there;
// the final norm is then with the last decoder layer. A vision tower is in the first section only.

#include <memory>
#include <string>
#include <vector>

#include "core/choice.hpp"
#include "layout/layout.hpp"
#include "layout/parallelism.hpp"

namespace refit::train::megatron {

/// The form of LoRA pairs beside fused parameters, dense ones' by these words: one for each of Hugging Face's modules
/// (Megatron-Bridge's CanonicalLoRA), or one for the whole parameter (its LoRA). An expert's gate and up have one pair.
enum class LoraForm : std::uint8_t { canonical, fused };
Choices choices(LoraForm);

/// Options of a case for the train side.
struct Options {
  layout::Parallelism sizes;            ///< dp = 0: the smallest that lets EP x ETP divide TP x CP x DP
  std::int64_t first_stage_layers = 0;  ///< 0 = even split
  std::int64_t last_stage_layers = 0;
  std::vector<std::int64_t> stage_layers;  ///< explicit list, by section; empty = none
  std::int64_t virtual_stages = 1;         ///< model chunks of a rank (VP), where no pipeline_layout says so
  std::string pipeline_layout;             ///< Megatron-Core's pipeline_model_parallel_layout; or empty
  bool account_for_embedding = false;      ///< the embedding counts as a layer of the first section
  bool account_for_loss = false;           ///< the loss counts as a layer of the last section
  std::string hybrid_layer_pattern;  ///< for Nemotron-H: a letter per layer (M * E -), `|` between stages; or empty
  std::int64_t make_vocab_size_divisible_by = 0;  ///< 0 = vocabulary not padded
  LoraForm lora = LoraForm::canonical;
  bool mtp = true;                ///< the trainer builds the model's layers of multi-token prediction
  DType precision = DType::bf16;  ///< of every parameter but the router's expert bias
  /// Form in which Transformer Engine keeps quantised weights (Float8BlockwiseQTensor, MXFP8); `precision` is that of
  /// all others.
  StoredFormat weight_format = StoredFormat::unquantised;
};

/// Place of a rank on both meshes.
struct Coordinates {
  std::int64_t tp, cp, dp, etp, ep, edp, pp;
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};
Coordinates coordinates(const layout::Parallelism& sizes, Rank rank);

/// Returns the decoder layers of each section of the pipeline; without virtual stages a section is a stage. On failure
/// returns an empty list and appends the reasons to `violations`.
std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations);

/// Returns every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// Makes the layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::train::megatron
