#pragma once
// The roles of tensors. A new role is an enumerator and one row of the table in role.cpp: nothing depends on the order
// of enumerators.
//
// Example: facts_of(Role::shared_up_proj) is {"shared_up_proj", in a layer, of a shared MLP, its up, quantisable}.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace refit::model {

/// The purpose of a tensor, on which alone layout rules depend. Its shape is given in brackets.
enum class Role : std::uint8_t {
  embedding,   ///< [V, H]
  lm_head,     ///< [V, H]
  final_norm,  ///< [H]
  // Norms in front of a block, [H]. Megatron fuses each into the block's first linear, or does not.
  attention_norm,  ///< of q, k, v attention
  mla_norm,        ///< of multi-head latent attention
  mamba_norm,      ///< of a Mamba2 mixer
  gdn_norm,        ///< of Gated DeltaNet
  mlp_norm,        ///< of a dense MLP
  moe_norm,        ///< of experts
  // Norms of a block's output, before it is added to the residual, [H].
  attention_post_norm,
  mlp_post_norm,
  // Attention.
  q_proj,
  k_proj,
  v_proj,  ///< [heads * head_dim, H]
  q_proj_bias,
  k_proj_bias,
  v_proj_bias,  ///< [heads * head_dim]
  q_gate_proj,  ///< [nh * 2 * head_dim, H]: per head its q rows, then its output gate's
  qkv_proj,     ///< [(nh + 2 nkv) * head_dim, H]: q, k, v in one
  paired_q_proj,
  paired_k_proj,  ///< [heads, head_dim / 2, 2, H]: the rows of a rotary pair side by side; in checkpoints as q_proj's
  q_norm,
  k_norm,  ///< [head_dim]
  all_heads_q_norm,
  all_heads_k_norm,  ///< [heads * head_dim]: one norm over all heads
  o_proj,            ///< [H, nh * head_dim]
  o_proj_bias,       ///< [H]
  sinks,             ///< [nh]
  // Multi-head latent attention.
  mla_q_proj,  ///< [nh * (nope + rope), H]: in place of the next three
  q_a_proj,    ///< [q_lora_rank, H]
  q_a_norm,    ///< [q_lora_rank]
  q_b_proj,    ///< [nh * (nope + rope), q_lora_rank]
  kv_a_proj,   ///< [kv_lora_rank + rope, H]
  kv_a_norm,   ///< [kv_lora_rank]
  kv_b_proj,   ///< [nh * (nope + v), kv_lora_rank]
  mla_o_proj,  ///< [H, nh * v]
  // The indexer of sparse attention, beside that.
  indexer_q_proj,        ///< [index heads * index head_dim, q_lora_rank]
  indexer_k_proj,        ///< [index head_dim, H]
  indexer_weights_proj,  ///< [index heads, H]
  indexer_k_norm,
  indexer_k_norm_bias,  ///< [index head_dim]
  // Dense MLP; without gate_proj where it is not gated.
  gate_proj,
  up_proj,       ///< [I, H]
  gate_up_proj,  ///< [2 I, H]: gate rows, then up rows in one
  down_proj,     ///< [H, I]
  gate_proj_bias,
  up_proj_bias,    ///< [I]
  down_proj_bias,  ///< [H]
  // Experts: one tensor for each (Tensor::expert) ...
  router,       ///< [E, H]
  router_bias,  ///< [E]
  expert_bias,  ///< [E]: e_score_correction_bias, float32 everywhere
  expert_gate,  ///< [I, H or latent]
  expert_up,    ///< likewise; without expert_gate where it is not gated
  expert_down,  ///< [H or latent, I]
  // ... or all in one.
  packed_gate_up,  ///< [E, 2 I, H]: gate rows, then up rows
  stacked_gate,
  stacked_up,                ///< [E, I, H]: in place of that
  packed_down,               ///< [E, H, I]
  interleaved_gate_up,       ///< [E, H, I, 2]: gate and up alternate; in checkpoints [E, H, 2 I]
  interleaved_gate_up_bias,  ///< [E, I, 2]; in checkpoints [E, 2 I]
  packed_up,                 ///< [E, I, H or latent]: of experts that are not gated
  transposed_gate_up,        ///< [E, H, 2 I]: gate columns, then up columns
  transposed_down,           ///< [E, I, H]
  packed_down_bias,          ///< [E, H]
  latent_in,                 ///< [latent, H]
  latent_out,                ///< [H, latent]
  shared_gate_proj,
  shared_up_proj,    ///< [I, H] of the shared experts
  shared_down_proj,  ///< [H, I]
  shared_router,     ///< [1, H]: the shared expert's own gate
  // Mamba2 mixer.
  mamba_in_proj,      ///< [2 d + 2 G S + heads, H]: z, x, B, C, dt
  mamba_conv_weight,  ///< [d + 2 G S, 1, K]: x, B, C
  mamba_conv_bias,    ///< [d + 2 G S]
  mamba_a_log,
  mamba_d,
  mamba_dt_bias,    ///< [heads]
  mamba_gate_norm,  ///< [d]
  mamba_out_proj,   ///< [H, d]
  // Gated DeltaNet.
  gdn_qkv_proj,  ///< [2 nk dk + nv dv, H]: q, k, v
  gdn_z_proj,    ///< [nv dv, H]
  gdn_b_proj,
  gdn_a_proj,     ///< [nv, H]
  gdn_qkvz_proj,  ///< the first two in one, per key head its q, k, v and z rows
  gdn_ba_proj,    ///< the other two in one, per key head its b and a rows
  gdn_conv,       ///< [2 nk dk + nv dv, 1, K]: q, k, v
  gdn_a_log,
  gdn_dt_bias,   ///< [nv]
  gdn_out_norm,  ///< [dv]
  gdn_out_proj,  ///< [H, nv dv]
  // Multi-token prediction: beside the layer's own tensors, which have their usual roles.
  mtp_embedding,  ///< [V, H]
  mtp_hidden_norm,
  mtp_embedding_norm,  ///< [H]
  mtp_proj,            ///< [H, 2 H]
  mtp_final_norm,      ///< [H]
  mtp_head,            ///< [V, H]
  // A vision tower, of width D, and the projection of its output into the language model.
  vision_embedding,  ///< [D, ...] of patches, [positions, D]
  vision_norm,       ///< [D], or the width that a merger takes together
  vision_bias,       ///< of norms, embeddings and matrices that write to the residual
  vision_qkv,        ///< [3 D, D]: q, k, v
  vision_qkv_bias,   ///< [3 D]
  vision_q,
  vision_k,
  vision_v,  ///< [D, D]
  vision_q_bias,
  vision_k_bias,
  vision_v_bias,  ///< [D]
  vision_proj,    ///< [D, D]: of attention's output
  vision_gate,
  vision_up,  ///< [I, D]
  vision_gate_bias,
  vision_up_bias,     ///< [I]
  vision_fc1,         ///< [I, D]: the first matrix of an MLP that is not gated, or of a merger
  vision_fc1_bias,    ///< [I]
  vision_fc2,         ///< [D, I]: the last matrix of an MLP or of a merger
  vision_projection,  ///< [D, H]: the transpose of a linear layer's weight
  // These roles exist in quantised models only. The first seven are parts of the weight Tensor::scale_of, whose rules
  // they follow.
  packed_values,  ///< several elements in each byte or word
  block_scale,    ///< one for each block: of rows and columns, or a row
  tensor_scale,   ///< [1]: one for all of the weight
  input_scale,    ///< [1]: of its layer's input, which weights with a common input have in common
  zero_point,     ///< one for each block of integers
  weight_shape,   ///< [2]: rows and columns
  group_index,    ///< [columns]: the block of each
  q_scale,
  k_scale,
  v_scale,  ///< [1] or []: of the FP8 KV cache, behind all other tensors
  // Matrices of LoRA pairs, of the weight Tensor::adapter_of: W + s B A.
  lora_a,  ///< [r, columns of the weight]
  lora_b,  ///< [rows of the weight, r]
  listed,  ///< in a model that is a mere list of tensors (m2n/): its layouts know the places
  unknown  ///< no rule: whole on every rank under its own name, and misc
};
inline constexpr std::size_t kRoles = static_cast<std::size_t>(Role::unknown) + 1;

/// The block with which a layer mixes tokens. Nemotron-H's layers have one block each, so that an MLP or experts stand
/// alone.
enum class Mixer : std::uint8_t { attention, mamba, gated_delta_net, mlp, experts };

/// The part of a model in which a tensor stands.
enum class Place : std::uint8_t {
  layer,       ///< in a layer of the decoder, or in the decoder layer within a prediction layer
  front,       ///< before the layers
  end,         ///< behind them
  prediction,  ///< in a layer of multi-token prediction, beside its decoder layer
  vision,      ///< in a vision tower, or between it and the language model
  elsewhere    ///< in its weight's place (parts), or unknown
};

/// The kind of MLP to which a matrix belongs.
enum class Mlp : std::uint8_t {
  none,
  dense,
  shared,              ///< shared experts
  expert,              ///< one expert
  packed_experts,      ///< all experts
  transposed_experts,  ///< all experts, transposed: gate columns, then up columns
  interleaved_experts  ///< all experts, transposed and with gate and up alternating (gpt-oss)
};

/// The matrix or bias within its MLP.
enum class MlpPart : std::uint8_t { none, gate, up, gate_up, down };

/// Facts of one role: its row of the table.
struct RoleFacts {
  Role role;
  std::string_view name;  ///< as `refit plan --classify` prints it, e.g. "q_proj"
  Place place = Place::layer;
  std::optional<Mixer> mixer = std::nullopt;    ///< attention, mamba or gated_delta_net: the mixer that has this weight
  std::optional<Mixer> norm_of = std::nullopt;  ///< the block behind this norm
  bool is_norm = false;                         ///< the weight of any norm
  Mlp mlp = Mlp::none;
  MlpPart part = MlpPart::none;
  bool is_quantisable = false;  ///< a linear layer's weight that quantised formats know: no router, embedding, head
  bool is_cache_scale = false;  ///< a scale of the FP8 KV cache
  bool is_part = false;         ///< a part of a quantised weight
  bool is_adaptable = false;    ///< trainers and engines have a rule for a LoRA pair beside it
};

/// Returns every role's row, in no particular order.
std::span<const RoleFacts> all_roles();

const RoleFacts& facts_of(Role role);

/// Returns whether the role is that of scales and the like, which are no parameters of the model but give values to
/// others.
inline bool is_scale(Role role) { return facts_of(role).is_part || facts_of(role).is_cache_scale; }

/// Returns whether the role is that of one number, or a few, for all of a weight.
inline bool is_of_whole_weight(Role role) {
  return role == Role::tensor_scale || role == Role::input_scale || role == Role::weight_shape;
}

/// Returns whether rows are the heads' rotary pairs, in three dimensions instead of one: [heads, pairs, 2, columns].
inline bool is_paired(Role role) { return role == Role::paired_q_proj || role == Role::paired_k_proj; }

inline std::string_view name(Role role) { return facts_of(role).name; }

}  // namespace refit::model
