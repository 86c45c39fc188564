#pragma once
// Megatron-Core's local layouts (Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2, Transformer Engine's fused
// parameters).
//
// Rank order tp-cp-ep-dp-pp with expert tensor parallelism 1: inside a pipeline stage of S = TP x CP x DP ranks, s = r
// mod S, the non-expert mesh has tp = s mod TP and the expert mesh ep = s mod EP: two decompositions of the same ranks,
// not one.
//
// Rules, per rank (t = tp rank): linear_qkv holds rows [t R/TP, (t+1) R/TP) of the matrix of query groups [q heads | k
// | v], also when that cuts through a group; linear_fc1 = [gate part; up part]; linear_proj and linear_fc2 are cut by
// columns; experts are whole, EP rank ep holding the contiguous experts [ep E/EP, (ep+1) E/EP); embedding and output
// layer are cut by rows after zero padding; norms and the router are replicated. A tied model has its embedding on
// stage 0 and, with PP > 1, a second copy as output_layer on the last stage.

#include <memory>
#include <string>
#include <vector>

#include "layout/layout.hpp"
#include "layout/parallelism.hpp"

namespace refit::train {

/// What a case says of the train side.
struct Options {
  layout::Parallelism sizes;            ///< dp = 0: the smallest that lets EP divide TP x CP x DP
  std::int64_t first_stage_layers = 0;  ///< 0 = even split
  std::int64_t last_stage_layers = 0;
  std::vector<std::int64_t> stage_layers;         ///< explicit list; empty = none
  std::int64_t make_vocab_size_divisible_by = 0;  ///< 0 = vocabulary not padded
  DType precision = DType::bf16;                  ///< of every parameter
};

/// Layers of each stage (Megatron's num_layers_in_first/last_pipeline_stage, or the explicit list). On failure returns
/// an empty list and appends the reasons to `violations`.
std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations);

/// Every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// The layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::train
