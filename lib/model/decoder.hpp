#pragma once
// The parts that decoder families share. A family whose decoder is built like Llama's calls `add_decoder` and is done;
// another gives its own blocks to `add_decoder`, or calls the parts. Names are Hugging Face's. Private to lib/model.

#include <functional>

#include "model/family.hpp"

namespace refit::model {

/// How a family's attention differs from plain q, k, v, o.
struct AttentionParts {
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;         ///< RMSNorm of each head of q and k, [head_dim]
  bool all_heads_norm = false;  ///< one RMSNorm of all of q and one of all of k, [heads * head_dim]
  bool output_gate = false;     ///< q_proj holds an output gate's rows too
  bool sinks = false;           ///< one more logit for each head
  bool fused = false;           ///< q, k and v are one matrix; only without all of the above
  bool paired = false;          ///< an engine may sort the rows of q's and k's rotary pairs
  std::string_view module = "self_attn";
};

/// Where a family keeps its experts and what it calls their matrices; `gate` is empty where they have none.
struct ExpertNames {
  std::string_view module = "mlp";
  std::string_view gate = "gate_proj";
  std::string_view up = "up_proj";
  std::string_view down = "down_proj";
  std::string_view bias = "gate.e_score_correction_bias";  ///< of the router
};

/// What adds one block of layer N.
using AddBlock = std::function<void(TensorList& list, std::int64_t layer)>;

/// `prefix`mlp.{gate,up,down}_proj.weight.
void add_mlp_block(TensorList& list, std::int64_t layer);

/// How a family's layers differ from Llama's beside their mixer and experts. Norms are named without ".weight"; an
/// empty name: there is none.
struct LayerForm {
  std::string_view mixer_norm = "input_layernorm";
  std::string_view mixer_post_norm = "";
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view mlp_post_norm = "";
  AddBlock dense = add_mlp_block;  ///< the MLP of layers without experts
};

/// `config.prefix`layers.N.
std::string layer_prefix(const Config& config, std::int64_t layer);
/// The same, but for prediction layers that the list has elsewhere.
std::string layer_prefix(const TensorList& list, std::int64_t layer);

/// The role of the norm in front of a layer's mixer.
Role mixer_norm(const Config& config, std::int64_t layer);

/// q, k, v (each with its bias), q_norm, k_norm, o, sinks.
void add_attention(TensorList& list, std::int64_t layer, const AttentionParts& parts);

/// `prefix`{gate,up,down}_proj.weight of a dense MLP; without gate_proj where it is not gated.
void add_dense_mlp(TensorList& list, const std::string& prefix, std::int64_t layer, bool gated = true);

/// The same for the shared experts. Nothing where the model has none.
void add_shared_experts(TensorList& list, const std::string& prefix, std::int64_t layer, bool gated = true);

/// `prefix`gate.weight, and the bias by which it selects experts where the model has one, at `bias` behind the prefix.
void add_router(TensorList& list, const std::string& prefix, std::int64_t layer,
                std::string_view bias = "gate.e_score_correction_bias");

/// The router, then the experts in ascending order, one tensor for each matrix.
void add_experts(TensorList& list, std::int64_t layer, const ExpertNames& names = {});

/// The router, then all experts as mlp.experts.gate_up_proj and mlp.experts.down_proj.
void add_packed_experts(TensorList& list, std::int64_t layer);

/// Stacked where the checkpoint has them so (transformers 5 packs them, trainers have names of their own), else one by
/// one.
void add_any_experts(TensorList& list, std::int64_t layer);

/// One layer: norm, `mixer`, norm, then a dense MLP or `experts`.
void add_layer(TensorList& list, std::int64_t layer, const AddBlock& mixer, const AddBlock& experts,
               const LayerForm& form = {});

/// A whole model: embedding, layers, final norm, lm_head.
void add_decoder(TensorList& list, const AddBlock& mixer, const AddBlock& experts, const LayerForm& form = {});

/// One with the same attention in all layers, and with experts by their usual names if it has any.
void add_decoder(TensorList& list, const AttentionParts& parts, const LayerForm& form = {});

/// The layers of multi-token prediction, numbered after the last: enorm, hnorm, eh_proj, a decoder layer, shared_head.
/// Not every checkpoint repeats the embedding and the head in them.
void add_prediction_layers(TensorList& list, const AddBlock& mixer, const AddBlock& experts);

/// Reads `attention_bias`; true means biases of q, k, v and o.
void read_attention_bias(ConfigFile& file, Config& config);

/// Records a problem where a key of other families says that q and k have no norms.
void require_qk_norm(ConfigFile& file);

/// Records a problem where the flag `key` is true: `what` has no layout rule.
void refuse(ConfigFile& file, std::string_view key, std::string_view what);

/// Reads `intermediate_size`; optional in a model that has only layers of experts.
void read_dense_mlp(ConfigFile& file, Config& config);

/// The number of experts: `key`, or num_local_experts as newer versions of transformers write.
std::int64_t read_experts(ConfigFile& file, std::string_view key = "num_experts");

/// Reads `mlp_layer_types` ("dense", "sparse" for each layer), as newer versions of transformers write; false where it
/// is not there. Needs `config.layers`.
bool read_mlp_layer_types(ConfigFile& file, Config& config);

/// Reads `mlp_layer_types`, or `first_k_dense_replace`, the number of first layers that have no experts. Needs
/// `config.layers`.
void read_first_dense_layers(ConfigFile& file, Config& config);

/// Reads `mlp_layer_types`, or `mlp_only_layers` and `decoder_sparse_step`: the layers that have no experts. Needs
/// `config.layers`.
void read_dense_layers(ConfigFile& file, Config& config);

}  // namespace refit::model
