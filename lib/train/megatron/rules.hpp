#pragma once
// Megatron-Core's parameters, block by block. Private to this folder.
//
// Source: parameters that Megatron-Core 0.19.2 with Megatron-Bridge 0.6.2 and Transformer Engine's modules was seen to
// store. Names are those within a layer, e.g. "self_attention.linear_qkv.weight" of "decoder.layers.0.".

#include "layout/adapters.hpp"
#include "layout/block_scales.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {

inline constexpr std::string_view kOutputLayer = "output_layer.weight";

/// A model, its options, and the table of parameters that rules add to.
struct Rules {
  const model::Config& config;
  const Options& options;  ///< complete: dp >= 1
  layout::ParameterTable table;

  std::int64_t tp() const { return options.sizes.tp; }
};

/// Adds embedding, output layer and final norm.
void add_vocabulary(Rules& rules);
/// Adds softmax attention with fused q, k, v, also with an output gate.
void add_attention(Rules& rules);
/// Adds multi-head latent attention.
void add_latent_attention(Rules& rules);
void add_mlp(Rules& rules);
/// Adds router, experts, shared experts and latent projections.
void add_experts(Rules& rules);
void add_mamba(Rules& rules);
void add_gated_delta_net(Rules& rules);
/// Adds a vision tower and the projection of its output.
void add_vision(Rules& rules);
/// Adds the parts of a multi-token prediction layer beside its decoder layer.
void add_multi_token_prediction(Rules& rules);

/// Returns the number of layers of multi-token prediction that the trainer builds.
std::int64_t prediction_layers(const model::Config& config, const Options& options);

/// Returns the rules of Transformer Engine's quantised weights: blocks are those of the rank's own parameter, and the
/// rowwise scales are padded with zeros to a multiple of 4 columns, those of MXFP8 also to a multiple of 128 rows.
layout::ScaleRules scale_rules(const Options& options);

/// Returns the rules of LoRA pairs: linear_in [r, in] and linear_out [out, r], each cut over all tensor-parallel ranks;
/// experts' are one parameter for the rank's experts. Source: Megatron-Bridge 0.6.2, ParallelLinearAdapter and
/// GroupedExpertLinearAdapter (share_expert_adapters = False).
layout::AdapterRules adapter_rules(const model::Model& model, const Options& options);

/// Returns the parameters of all these blocks.
std::vector<layout::Parameter> parameters(const model::Model& model, const Options& options);

}  // namespace refit::train::megatron
