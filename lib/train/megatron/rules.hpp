#pragma once
// Megatron-Core's parameters, block by block. Private to this folder.
//
// Source: what Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2 and Transformer Engine's modules stored. Names are those
// within a layer, e.g. "self_attention.linear_qkv.weight" of "decoder.layers.0.".

#include "layout/block_scales.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {

inline constexpr std::string_view kOutputLayer = "output_layer.weight";

/// What rules are written with.
struct Rules {
  const model::Config& config;
  const Options& options;  ///< complete: dp >= 1
  layout::ParameterTable table;

  std::int64_t tp() const { return options.sizes.tp; }
};

/// Embedding, output layer, final norm.
void add_vocabulary(Rules& rules);
/// Softmax attention with fused q, k, v; also with an output gate.
void add_attention(Rules& rules);
/// Multi-head latent attention.
void add_latent_attention(Rules& rules);
void add_mlp(Rules& rules);
/// Router, experts, shared experts, latent projections.
void add_experts(Rules& rules);
void add_mamba(Rules& rules);
void add_gated_delta_net(Rules& rules);
/// A vision tower and what projects its output.
void add_vision(Rules& rules);
/// What a multi-token prediction layer has beside its decoder layer.
void add_multi_token_prediction(Rules& rules);

/// Returns the number of layers of multi-token prediction that the trainer builds.
std::int64_t prediction_layers(const model::Config& config, const Options& options);

/// Of Transformer Engine's quantised weights: blocks are those of the rank's own parameter, and the rowwise scales are
/// padded with zeros to a multiple of 4 columns, those of MXFP8 also to one of 128 rows.
layout::ScaleRules scale_rules(const Options& options);

/// All of them.
std::vector<layout::Parameter> parameters(const model::Model& model, const Options& options);

}  // namespace refit::train::megatron
