#include <algorithm>

#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {

using model::Role;

namespace {

/// Scales of the FP8 KV cache: quantised models have a parameter for each, whatever the cache's type. Others keep what
/// the checkpoint says, and so does latent attention, which has none.
void add_cache_scales(Rules& rules) {
  if (rules.options.weight_format == model::WeightFormat::unquantised) return;
  for (const auto& [name, role] :
       {std::pair("attn.q_scale", Role::q_scale), {"attn.k_scale", Role::k_scale}, {"attn.v_scale", Role::v_scale}}) {
    layout::Parameter scale{name, {{role, {0, 1}}}};
    scale.scalar = true;
    rules.table.add(std::move(scale));
  }
}

}  // namespace

/// qkv_proj holds the rank's part of q (with an output gate: of its rows as they are, per head q then gate), of k and
/// of v. Where there are more ranks than KV heads, TP / nkv neighbours hold the same head. o_proj's bias is whole on
/// every rank, and added by the first.
void add_attention(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t tp = rules.tp();
  const std::int64_t kv_parts = std::min(tp, rules.config.kv_heads);
  table.whole("", Role::attention_norm);
  const Role q = table.has(Role::q_gate_proj) ? Role::q_gate_proj : Role::q_proj;
  table.stack("qkv_proj.weight",
              {table.all(q, tp), table.all(Role::k_proj, kv_parts), table.all(Role::v_proj, kv_parts)});
  table.stack("qkv_proj.bias", {table.all(Role::q_proj_bias, tp), table.all(Role::k_proj_bias, kv_parts),
                                table.all(Role::v_proj_bias, kv_parts)});
  table.whole("", Role::q_norm);
  table.whole("", Role::k_norm);
  table.columns("", Role::o_proj);
  table.whole("", Role::o_proj_bias);
  table.rows("", Role::sinks, tp);
  if (rules.config.mla.kv_rank == 0) add_cache_scales(rules);
}

/// The down projections are fused and whole on every rank.
void add_latent_attention(Rules& rules) {
  auto& table = rules.table;
  table.whole("", Role::mla_norm);
  table.stack("fused_qkv_a_proj.weight", {table.all(Role::q_a_proj), table.all(Role::kv_a_proj)});
  table.whole("", Role::q_a_norm);
  table.rows("", Role::q_b_proj, rules.tp());
  table.whole("", Role::kv_a_norm);
  table.rows("", Role::kv_b_proj, rules.tp());
  table.columns("", Role::mla_o_proj);
}

}  // namespace refit::gen::vllm
