#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using layout::Component;
using layout::Cut;
using layout::Parameter;
using model::Role;

namespace {

struct QkvRoles {
  Role q, k, v;
};

/// linear_qkv: by query group its q heads, (their gates,) its k, its v; the whole is cut evenly over TP, wherever that
/// cuts a group. Where the q projection carries an output gate, a head has its q rows, then its gate's.
Parameter fused_qkv(const Rules& rules, std::string name, const QkvRoles& roles, bool gated) {
  const std::int64_t hd = rules.config.head_dim;
  const std::int64_t heads = rules.config.attention_heads / rules.config.kv_heads;
  Parameter parameter{std::move(name), {}};
  parameter.cut = Cut::stack;
  const auto add = [&](Role role, std::int64_t begin, std::int64_t rows, std::int64_t ranges, std::int64_t distance) {
    Component component{role, {begin, rows}};
    component.ranges = ranges;
    component.distance = distance;
    parameter.components.push_back(component);
  };
  for (std::int64_t group = 0; group < rules.config.kv_heads; ++group) {
    if (gated) {
      const std::int64_t begin = 2 * group * heads * hd;
      add(roles.q, begin, hd, heads, 2 * hd);
      add(roles.q, begin + hd, hd, heads, 2 * hd);
    } else {
      add(roles.q, group * heads * hd, heads * hd, 1, 0);
    }
    add(roles.k, group * hd, hd, 1, 0);
    add(roles.v, group * hd, hd, 1, 0);
  }
  return parameter;
}

}  // namespace

void add_attention(Rules& rules) {
  auto& table = rules.table;
  table.whole("self_attention.linear_qkv.layer_norm_weight", Role::attention_norm);
  const bool gated = table.has(Role::q_gate_proj);
  table.add(fused_qkv(rules, "self_attention.linear_qkv.weight",
                      {gated ? Role::q_gate_proj : Role::q_proj, Role::k_proj, Role::v_proj}, gated));
  table.add(fused_qkv(rules, "self_attention.linear_qkv.bias",
                      {Role::q_proj_bias, Role::k_proj_bias, Role::v_proj_bias}, false));
  table.whole("self_attention.q_layernorm.weight", Role::q_norm);
  table.whole("self_attention.k_layernorm.weight", Role::k_norm);
  table.columns("self_attention.linear_proj.weight", Role::o_proj);
  table.whole("self_attention.linear_proj.bias", Role::o_proj_bias);
  table.rows("self_attention.core_attention.softmax_offset", Role::sinks, rules.tp());
}

/// The input norm is not fused, and the down projections are whole on every rank (Transformer Engine's "duplicated").
void add_latent_attention(Rules& rules) {
  auto& table = rules.table;
  table.whole("input_layernorm.weight", Role::mla_norm);
  table.whole("self_attention.linear_q_down_proj.weight", Role::q_a_proj);
  table.whole("self_attention.linear_q_up_proj.layer_norm_weight", Role::q_a_norm);
  table.rows("self_attention.linear_q_up_proj.weight", Role::q_b_proj, rules.tp());
  table.whole("self_attention.linear_kv_down_proj.weight", Role::kv_a_proj);
  table.whole("self_attention.linear_kv_up_proj.layer_norm_weight", Role::kv_a_norm);
  table.rows("self_attention.linear_kv_up_proj.weight", Role::kv_b_proj, rules.tp());
  table.columns("self_attention.linear_proj.weight", Role::mla_o_proj);
}

}  // namespace refit::train::megatron
