#pragma once
// vLLM's parameters, block by block. Private to this folder.
//
// Source: what vLLM 0.33.0 stored. A parameter's name is the part that takes the place of its tensors' own last words
// ("qkv_proj.weight" of "model.layers.0.self_attn.q_proj.weight"); empty where the name is the tensor's.

#include "gen/vllm/layout.hpp"
#include "layout/block_scales.hpp"

namespace refit::gen::vllm {

/// What rules are written with.
struct Rules {
  const model::Config& config;
  const Options& options;
  layout::ParameterTable table;

  std::int64_t tp() const { return options.sizes.tp; }
};

/// Embedding, head and final norm, of the drafter too.
void add_vocabulary(Rules& rules);
/// Softmax attention, also with an output gate.
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
/// Whether every rank has all of the tower.
bool is_vision_whole(const Rules& rules);

/// Columns of the experts' first weights.
std::int64_t expert_input(const model::Config& config);

layout::ScaleRules scale_rules(const model::Model& model, const Options& options);

/// All of them.
std::vector<layout::Parameter> parameters(const model::Model& model, const Options& options);

}  // namespace refit::gen::vllm
