#include <algorithm>

#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using layout::Component;
using layout::Cut;
using layout::Parameter;
using model::Role;

namespace {

/// The first row of q, of k or of v in its tensor: each has a tensor of its own, or one tensor has them all.
struct QkvRows {
  Role role;
  std::int64_t begin = 0;
};
struct Qkv {
  QkvRows q, k, v;
};

/// Returns linear_qkv: by query group its q heads, (their gates,) its k, its v. The whole is cut evenly over TP, even
/// if that cuts a group. If the q projection carries an output gate, each of its heads has its q rows, then its gate's.
Parameter fused_qkv(const Rules& rules, std::string name, const Qkv& qkv, bool gated) {
  const std::int64_t hd = rules.config.head_dim;
  const std::int64_t heads = rules.config.attention_heads / rules.config.kv_heads;
  Parameter parameter{std::move(name), {}};
  parameter.cut = Cut::stack;
  const auto add = [&](const QkvRows& of, std::int64_t begin, std::int64_t rows, std::int64_t ranges,
                       std::int64_t distance) {
    Component component{of.role, {of.begin + begin, rows}};
    component.ranges = ranges;
    component.distance = distance;
    parameter.components.push_back(component);
  };
  for (std::int64_t group = 0; group < rules.config.kv_heads; ++group) {
    if (gated) {
      const std::int64_t begin = 2 * group * heads * hd;
      add(qkv.q, begin, hd, heads, 2 * hd);
      add(qkv.q, begin + hd, hd, heads, 2 * hd);
    } else {
      add(qkv.q, group * heads * hd, heads * hd, 1, 0);
    }
    add(qkv.k, group * hd, hd, 1, 0);
    add(qkv.v, group * hd, hd, 1, 0);
  }
  return parameter;
}

/// Returns the tensors of q, k and v.
Qkv qkv_of(const Rules& rules) {
  const auto& table = rules.table;
  if (table.has(Role::qkv_proj)) {
    const std::int64_t q = rules.config.attention_heads * rules.config.head_dim;
    const std::int64_t kv = rules.config.kv_heads * rules.config.head_dim;
    return {{Role::qkv_proj, 0}, {Role::qkv_proj, q}, {Role::qkv_proj, q + kv}};
  }
  if (table.has(Role::paired_q_proj)) return {{Role::paired_q_proj}, {Role::paired_k_proj}, {Role::v_proj}};
  return {{table.has(Role::q_gate_proj) ? Role::q_gate_proj : Role::q_proj}, {Role::k_proj}, {Role::v_proj}};
}

}  // namespace

/// Norms over all heads are cut like the heads. If there are more ranks than KV heads, neighbours hold the same head's
/// part, although linear_qkv is cut through its group (MiniMaxM2Bridge).
void add_attention(Rules& rules) {
  auto& table = rules.table;
  table.whole("self_attention.linear_qkv.layer_norm_weight", Role::attention_norm);
  const std::int64_t kv_parts = std::min(rules.tp(), rules.config.kv_heads);
  table.add(fused_qkv(rules, "self_attention.linear_qkv.weight", qkv_of(rules), table.has(Role::q_gate_proj)));
  table.add(fused_qkv(rules, "self_attention.linear_qkv.bias",
                      {{Role::q_proj_bias}, {Role::k_proj_bias}, {Role::v_proj_bias}}, false));
  table.whole("self_attention.q_layernorm.weight", Role::q_norm);
  table.whole("self_attention.k_layernorm.weight", Role::k_norm);
  table.rows("self_attention.q_layernorm.weight", Role::all_heads_q_norm, rules.tp());
  table.rows("self_attention.k_layernorm.weight", Role::all_heads_k_norm, kv_parts);
  table.whole("self_attention.linear_proj.post_layernorm.weight", Role::attention_post_norm);
  table.columns("self_attention.linear_proj.weight", Role::o_proj);
  table.whole("self_attention.linear_proj.bias", Role::o_proj_bias);
  table.rows("self_attention.core_attention.softmax_offset", Role::sinks, rules.tp());
}

/// The input norm is not fused, and the down projections are whole on every rank (Transformer Engine's "duplicated").
/// An indexer is whole too and reads the compressed queries, so that norms are not fused into the up projections then.
void add_latent_attention(Rules& rules) {
  auto& table = rules.table;
  const bool sparse = table.has(Role::indexer_k_proj);
  table.whole("input_layernorm.weight", Role::mla_norm);
  table.whole("self_attention.linear_q_down_proj.weight", Role::q_a_proj);
  table.whole(sparse ? "self_attention.q_layernorm.weight" : "self_attention.linear_q_up_proj.layer_norm_weight",
              Role::q_a_norm);
  table.rows("self_attention.linear_q_up_proj.weight", Role::q_b_proj, rules.tp());
  table.rows("self_attention.linear_q_proj.weight", Role::mla_q_proj, rules.tp());
  table.whole("self_attention.linear_kv_down_proj.weight", Role::kv_a_proj);
  table.whole(sparse ? "self_attention.kv_layernorm.weight" : "self_attention.linear_kv_up_proj.layer_norm_weight",
              Role::kv_a_norm);
  table.rows("self_attention.linear_kv_up_proj.weight", Role::kv_b_proj, rules.tp());
  table.columns("self_attention.linear_proj.weight", Role::mla_o_proj);
  const std::string indexer = "self_attention.core_attention.indexer.";
  table.whole(indexer + "linear_wq_b.weight", Role::indexer_q_proj);
  table.whole(indexer + "linear_wk.weight", Role::indexer_k_proj);
  table.whole(indexer + "linear_weights_proj.weight", Role::indexer_weights_proj);
  table.whole(indexer + "k_norm.weight", Role::indexer_k_norm);
  table.whole(indexer + "k_norm.bias", Role::indexer_k_norm_bias);
}

}  // namespace refit::train::megatron
