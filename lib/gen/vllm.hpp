#pragma once
// vLLM's local layouts (vLLM 0.33.0, before process_weights_after_loading, Triton MoE backend).
//
// Gen rank g = dp x TP + t, TP innermost. Rules, per rank: qkv_proj = [q heads | k | v], KV heads replicated when TP >
// nkv (rank t holds KV head t div (TP / nkv)); gate_up_proj = [gate part; up part]; o_proj and down_proj are cut by
// columns; the vocabulary is padded with zeros to a multiple of 64, then cut by rows; norms and the router are
// replicated. Experts: w13_weight [E, 2 I, H] = per expert [gate; up], w2_weight [E, H, I]. Without EP each rank of the
// MoE group (TP, or DP x TP with vLLM's internal data parallelism) holds its part of every expert's I; with EP whole
// experts, linear placement.

#include <memory>
#include <string>
#include <vector>

#include "layout/layout.hpp"
#include "layout/parallelism.hpp"

namespace refit::gen {

/// What a case says of the gen side.
struct Options {
  layout::Parallelism sizes;            ///< tp, dp, ep; dp = 0 means 1
  bool internal_data_parallel = false;  ///< experts are split over DP x TP
  DType precision = DType::bf16;
};

/// Every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// The layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::gen
