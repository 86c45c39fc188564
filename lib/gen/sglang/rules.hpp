#pragma once
// SGLang's parameters, block by block. Private to this folder.
//
// Source: what SGLang 0.5.23 stored. A parameter's name is the part that takes the place of its tensors' own last words
// ("qkv_proj.weight" of "model.layers.0.self_attn.q_proj.weight"); empty where the name is the tensor's.

#include "gen/sglang/layout.hpp"
#include "layout/block_scales.hpp"

namespace refit::gen::sglang {

/// The ranks over which parameters that are no expert's are cut: values of Parameter::group.
enum Group : int { kTensor, kAttention };

/// What rules are written with.
struct Rules {
  const model::Config& config;
  const Options& options;
  const model::SglangFacts& facts;
  layout::ParameterTable table;

  std::int64_t tp() const { return options.sizes.tp; }
  /// Attention's group, and its size. Classes without attention data parallelism cut it over TP.
  Group attention() const { return facts.cuts_attention_over_tp ? kTensor : kAttention; }
  std::int64_t attention_tp() const { return facts.cuts_attention_over_tp ? tp() : options.attention_tp(); }
};

/// Embedding, head and final norm, and what a drafter has beside its layer.
void add_vocabulary(Rules& rules);
/// Softmax attention, also with an output gate.
void add_attention(Rules& rules);
/// Multi-head latent attention.
void add_latent_attention(Rules& rules);
void add_mixers(Rules& rules);
void add_mlp(Rules& rules);
/// Router, experts, shared experts, latent projections.
void add_experts(Rules& rules);

layout::ScaleRules scale_rules(const Options& options);

/// All of them. The model's family has SglangFacts.
std::vector<layout::Parameter> parameters(const model::Model& model, const Options& options);

}  // namespace refit::gen::sglang
