#pragma once
// The parts that decoder families share. A family whose decoder is built like Llama's calls `add_decoder` and is done;
// another calls the parts that it shares. Names are Hugging Face's. Private to lib/model.

#include "model/family.hpp"

namespace refit::model {

/// How a family's attention differs from plain q, k, v, o.
struct AttentionParts {
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;  ///< RMSNorm of each head of q and k, [head_dim]
};

/// model.layers.N.self_attn.*: q, k, v (each with its bias), q_norm, k_norm, o.
void add_attention(TensorList& list, std::int64_t layer, const AttentionParts& parts);

/// `prefix`{gate,up,down}_proj.weight of one MLP with `intermediate` columns; of one expert where `expert` >= 0.
void add_gated_mlp(TensorList& list, const std::string& prefix, std::int64_t intermediate, std::int64_t layer,
                   std::int64_t expert = -1);

/// model.layers.N.mlp.gate.weight (the router), then the experts in ascending order.
void add_experts(TensorList& list, std::int64_t layer);

/// A whole model: embedding; per layer norm, attention, norm, MLP or experts; final norm, lm_head.
void add_decoder(TensorList& list, const AttentionParts& parts);

/// Reads `attention_bias`; true means biases of q, k, v and o.
void read_attention_bias(ConfigFile& file, Config& config);

/// Reads `intermediate_size`.
void read_dense_mlp(ConfigFile& file, Config& config);

}  // namespace refit::model
