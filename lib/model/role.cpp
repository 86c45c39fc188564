// The roles, one row each.

#include "model/role.hpp"

#include <array>

#include "core/error.hpp"

namespace refit::model {
namespace {

constexpr RoleFacts kRows[] = {
    {.role = Role::embedding, .name = "embedding", .place = Place::front},
    {.role = Role::lm_head, .name = "lm_head", .place = Place::end},
    {.role = Role::final_norm, .name = "final_norm", .place = Place::end, .is_norm = true},
    {.role = Role::attention_norm, .name = "attention_norm", .norm_of = Mixer::attention, .is_norm = true},
    {.role = Role::mla_norm, .name = "mla_norm", .norm_of = Mixer::attention, .is_norm = true},
    {.role = Role::mamba_norm, .name = "mamba_norm", .norm_of = Mixer::mamba, .is_norm = true},
    {.role = Role::gdn_norm, .name = "gdn_norm", .norm_of = Mixer::gated_delta_net, .is_norm = true},
    {.role = Role::mlp_norm, .name = "mlp_norm", .norm_of = Mixer::mlp, .is_norm = true},
    {.role = Role::moe_norm, .name = "moe_norm", .norm_of = Mixer::experts, .is_norm = true},
    {.role = Role::attention_post_norm, .name = "attention_post_norm", .is_norm = true},
    {.role = Role::mlp_post_norm, .name = "mlp_post_norm", .is_norm = true},
    {.role = Role::q_proj, .name = "q_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::k_proj, .name = "k_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::v_proj, .name = "v_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::q_proj_bias, .name = "q_proj_bias", .mixer = Mixer::attention},
    {.role = Role::k_proj_bias, .name = "k_proj_bias", .mixer = Mixer::attention},
    {.role = Role::v_proj_bias, .name = "v_proj_bias", .mixer = Mixer::attention},
    {.role = Role::q_gate_proj, .name = "q_gate_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::qkv_proj, .name = "qkv_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::paired_q_proj, .name = "paired_q_proj", .mixer = Mixer::attention},
    {.role = Role::paired_k_proj, .name = "paired_k_proj", .mixer = Mixer::attention},
    {.role = Role::q_norm, .name = "q_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::k_norm, .name = "k_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::all_heads_q_norm, .name = "all_heads_q_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::all_heads_k_norm, .name = "all_heads_k_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::o_proj, .name = "o_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::o_proj_bias, .name = "o_proj_bias", .mixer = Mixer::attention},
    {.role = Role::sinks, .name = "sinks", .mixer = Mixer::attention},
    {.role = Role::mla_q_proj, .name = "mla_q_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::q_a_proj, .name = "q_a_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::q_a_norm, .name = "q_a_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::q_b_proj, .name = "q_b_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::kv_a_proj, .name = "kv_a_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::kv_a_norm, .name = "kv_a_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::kv_b_proj, .name = "kv_b_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::mla_o_proj, .name = "mla_o_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::indexer_q_proj, .name = "indexer_q_proj", .mixer = Mixer::attention, .is_quantisable = true},
    {.role = Role::indexer_k_proj, .name = "indexer_k_proj", .mixer = Mixer::attention},
    {.role = Role::indexer_weights_proj, .name = "indexer_weights_proj", .mixer = Mixer::attention},
    {.role = Role::indexer_k_norm, .name = "indexer_k_norm", .mixer = Mixer::attention, .is_norm = true},
    {.role = Role::indexer_k_norm_bias, .name = "indexer_k_norm_bias", .mixer = Mixer::attention},
    {.role = Role::gate_proj, .name = "gate_proj", .mlp = Mlp::dense, .part = MlpPart::gate, .is_quantisable = true},
    {.role = Role::up_proj, .name = "up_proj", .mlp = Mlp::dense, .part = MlpPart::up, .is_quantisable = true},
    {.role = Role::gate_up_proj,
     .name = "gate_up_proj",
     .mlp = Mlp::dense,
     .part = MlpPart::gate_up,
     .is_quantisable = true},
    {.role = Role::down_proj, .name = "down_proj", .mlp = Mlp::dense, .part = MlpPart::down, .is_quantisable = true},
    {.role = Role::gate_proj_bias, .name = "gate_proj_bias"},
    {.role = Role::up_proj_bias, .name = "up_proj_bias"},
    {.role = Role::down_proj_bias, .name = "down_proj_bias"},
    {.role = Role::router, .name = "router"},
    {.role = Role::router_bias, .name = "router_bias"},
    {.role = Role::expert_bias, .name = "expert_bias"},
    {.role = Role::expert_gate,
     .name = "expert_gate",
     .mlp = Mlp::expert,
     .part = MlpPart::gate,
     .is_quantisable = true},
    {.role = Role::expert_up, .name = "expert_up", .mlp = Mlp::expert, .part = MlpPart::up, .is_quantisable = true},
    {.role = Role::expert_down,
     .name = "expert_down",
     .mlp = Mlp::expert,
     .part = MlpPart::down,
     .is_quantisable = true},
    {.role = Role::packed_gate_up,
     .name = "packed_gate_up",
     .mlp = Mlp::packed_experts,
     .part = MlpPart::gate_up,
     .is_quantisable = true},
    {.role = Role::stacked_gate, .name = "stacked_gate", .mlp = Mlp::packed_experts, .part = MlpPart::gate},
    {.role = Role::stacked_up, .name = "stacked_up", .mlp = Mlp::packed_experts, .part = MlpPart::up},
    {.role = Role::packed_down,
     .name = "packed_down",
     .mlp = Mlp::packed_experts,
     .part = MlpPart::down,
     .is_quantisable = true},
    {.role = Role::packed_up,
     .name = "packed_up",
     .mlp = Mlp::packed_experts,
     .part = MlpPart::up,
     .is_quantisable = true},
    {.role = Role::transposed_gate_up,
     .name = "transposed_gate_up",
     .mlp = Mlp::transposed_experts,
     .part = MlpPart::gate_up},
    {.role = Role::interleaved_gate_up,
     .name = "interleaved_gate_up",
     .mlp = Mlp::interleaved_experts,
     .part = MlpPart::gate_up},
    {.role = Role::interleaved_gate_up_bias,
     .name = "interleaved_gate_up_bias",
     .mlp = Mlp::interleaved_experts,
     .part = MlpPart::gate_up},
    {.role = Role::transposed_down, .name = "transposed_down", .mlp = Mlp::transposed_experts, .part = MlpPart::down},
    {.role = Role::packed_down_bias,
     .name = "packed_down_bias",
     .mlp = Mlp::interleaved_experts,
     .part = MlpPart::down},
    {.role = Role::latent_in, .name = "latent_in"},
    {.role = Role::latent_out, .name = "latent_out"},
    {.role = Role::shared_gate_proj,
     .name = "shared_gate_proj",
     .mlp = Mlp::shared,
     .part = MlpPart::gate,
     .is_quantisable = true},
    {.role = Role::shared_up_proj,
     .name = "shared_up_proj",
     .mlp = Mlp::shared,
     .part = MlpPart::up,
     .is_quantisable = true},
    {.role = Role::shared_down_proj,
     .name = "shared_down_proj",
     .mlp = Mlp::shared,
     .part = MlpPart::down,
     .is_quantisable = true},
    {.role = Role::shared_router, .name = "shared_router"},
    {.role = Role::mamba_in_proj, .name = "mamba_in_proj", .mixer = Mixer::mamba},
    {.role = Role::mamba_conv_weight, .name = "mamba_conv_weight", .mixer = Mixer::mamba},
    {.role = Role::mamba_conv_bias, .name = "mamba_conv_bias", .mixer = Mixer::mamba},
    {.role = Role::mamba_a_log, .name = "mamba_a_log", .mixer = Mixer::mamba},
    {.role = Role::mamba_d, .name = "mamba_d", .mixer = Mixer::mamba},
    {.role = Role::mamba_dt_bias, .name = "mamba_dt_bias", .mixer = Mixer::mamba},
    {.role = Role::mamba_gate_norm, .name = "mamba_gate_norm", .mixer = Mixer::mamba, .is_norm = true},
    {.role = Role::mamba_out_proj, .name = "mamba_out_proj", .mixer = Mixer::mamba},
    {.role = Role::gdn_qkv_proj, .name = "gdn_qkv_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_z_proj, .name = "gdn_z_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_b_proj, .name = "gdn_b_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_a_proj, .name = "gdn_a_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_qkvz_proj, .name = "gdn_qkvz_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_ba_proj, .name = "gdn_ba_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_conv, .name = "gdn_conv", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_a_log, .name = "gdn_a_log", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_dt_bias, .name = "gdn_dt_bias", .mixer = Mixer::gated_delta_net},
    {.role = Role::gdn_out_norm, .name = "gdn_out_norm", .mixer = Mixer::gated_delta_net, .is_norm = true},
    {.role = Role::gdn_out_proj, .name = "gdn_out_proj", .mixer = Mixer::gated_delta_net},
    {.role = Role::mtp_embedding, .name = "mtp_embedding", .place = Place::prediction},
    {.role = Role::mtp_hidden_norm, .name = "mtp_hidden_norm", .place = Place::prediction, .is_norm = true},
    {.role = Role::mtp_embedding_norm, .name = "mtp_embedding_norm", .place = Place::prediction, .is_norm = true},
    {.role = Role::mtp_proj, .name = "mtp_proj", .place = Place::prediction},
    {.role = Role::mtp_final_norm, .name = "mtp_final_norm", .place = Place::prediction, .is_norm = true},
    {.role = Role::mtp_head, .name = "mtp_head", .place = Place::prediction},
    {.role = Role::vision_embedding, .name = "vision_embedding", .place = Place::vision},
    {.role = Role::vision_norm, .name = "vision_norm", .place = Place::vision, .is_norm = true},
    {.role = Role::vision_bias, .name = "vision_bias", .place = Place::vision},
    {.role = Role::vision_qkv, .name = "vision_qkv", .place = Place::vision},
    {.role = Role::vision_qkv_bias, .name = "vision_qkv_bias", .place = Place::vision},
    {.role = Role::vision_q, .name = "vision_q", .place = Place::vision},
    {.role = Role::vision_k, .name = "vision_k", .place = Place::vision},
    {.role = Role::vision_v, .name = "vision_v", .place = Place::vision},
    {.role = Role::vision_q_bias, .name = "vision_q_bias", .place = Place::vision},
    {.role = Role::vision_k_bias, .name = "vision_k_bias", .place = Place::vision},
    {.role = Role::vision_v_bias, .name = "vision_v_bias", .place = Place::vision},
    {.role = Role::vision_proj, .name = "vision_proj", .place = Place::vision},
    {.role = Role::vision_gate, .name = "vision_gate", .place = Place::vision},
    {.role = Role::vision_up, .name = "vision_up", .place = Place::vision},
    {.role = Role::vision_gate_bias, .name = "vision_gate_bias", .place = Place::vision},
    {.role = Role::vision_up_bias, .name = "vision_up_bias", .place = Place::vision},
    {.role = Role::vision_fc1, .name = "vision_fc1", .place = Place::vision},
    {.role = Role::vision_fc1_bias, .name = "vision_fc1_bias", .place = Place::vision},
    {.role = Role::vision_fc2, .name = "vision_fc2", .place = Place::vision},
    {.role = Role::vision_projection, .name = "vision_projection", .place = Place::vision},
    {.role = Role::packed_values, .name = "packed_values", .place = Place::elsewhere, .is_part = true},
    {.role = Role::block_scale, .name = "block_scale", .place = Place::elsewhere, .is_part = true},
    {.role = Role::tensor_scale, .name = "tensor_scale", .place = Place::elsewhere, .is_part = true},
    {.role = Role::input_scale, .name = "input_scale", .place = Place::elsewhere, .is_part = true},
    {.role = Role::zero_point, .name = "zero_point", .place = Place::elsewhere, .is_part = true},
    {.role = Role::weight_shape, .name = "weight_shape", .place = Place::elsewhere, .is_part = true},
    {.role = Role::group_index, .name = "group_index", .place = Place::elsewhere, .is_part = true},
    {.role = Role::q_scale, .name = "q_scale", .is_cache_scale = true},
    {.role = Role::k_scale, .name = "k_scale", .is_cache_scale = true},
    {.role = Role::v_scale, .name = "v_scale", .is_cache_scale = true},
    {.role = Role::listed, .name = "listed", .place = Place::elsewhere},
    {.role = Role::unknown, .name = "unknown", .place = Place::elsewhere},
};

/// Rows by enumerator; nullptr for an enumerator with no row or with several.
constexpr std::array<const RoleFacts*, kRoles> kByRole = [] {
  std::array<const RoleFacts*, kRoles> result{};
  for (const RoleFacts& row : kRows) {
    auto& found = result[static_cast<std::size_t>(row.role)];
    found = found == nullptr ? &row : nullptr;
  }
  return result;
}();

constexpr bool is_complete() {
  for (const RoleFacts* row : kByRole) {
    if (row == nullptr) return false;
  }
  return std::size(kRows) == kRoles;
}
static_assert(is_complete(), "every role has one row");

}  // namespace

std::span<const RoleFacts> all_roles() { return kRows; }

const RoleFacts& facts_of(Role role) {
  const auto index = static_cast<std::size_t>(role);
  REFIT_ASSERT(index < kRoles);
  return *kByRole[index];
}

}  // namespace refit::model
