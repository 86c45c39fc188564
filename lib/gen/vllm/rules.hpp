#pragma once
// vLLM's parameters, block by block. Private to this folder.
//
// Source: parameters that vLLM 0.33.0 was seen to store. A parameter's name takes the place of its tensors' own last
// words ("qkv_proj.weight" of "model.layers.0.self_attn.q_proj.weight"); it is empty where the tensor's name stays.

#include "gen/vllm/layout.hpp"
#include "layout/adapters.hpp"
#include "layout/block_scales.hpp"

namespace refit::gen::vllm {

/// A model, its options, and the table of parameters that rules add to.
struct Rules {
  const model::Config& config;
  const Options& options;
  layout::ParameterTable table;

  std::int64_t tp() const { return options.sizes.tp; }
};

/// Adds embedding, head and final norm, of the drafter too.
void add_vocabulary(Rules& rules);
/// Adds softmax attention, also with an output gate.
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
/// Returns whether every rank has the whole tower.
bool is_vision_whole(const Rules& rules);

/// Returns the number of columns of the experts' first weights.
std::int64_t expert_input(const model::Config& config);

layout::ScaleRules scale_rules(const model::Model& model, const Options& options);

/// Returns the largest rank of an adapter that the engine is started for (max_lora_rank): of those that it knows, the
/// smallest that is enough; 0 if none is.
std::int64_t max_lora_rank(const model::Model& model);

/// Returns the rules of LoRA pairs, which an engine has where they are sent apart: buffers of one adapter (max_loras =
/// 1), for each tensor of a fused parameter one for A and one for B (the slices of lora_a_stacked and lora_b_stacked),
/// A whole and B as its weight's rows are; or, of weights that are cut by columns, A as these, and B whole. Source:
/// vLLM 0.33.0, lora/layers, without fully_sharded_loras.
layout::AdapterRules adapter_rules(const model::Model& model, const Options& options);

/// Returns the parameters of all these blocks.
std::vector<layout::Parameter> parameters(const model::Model& model, const Options& options);

}  // namespace refit::gen::vllm
