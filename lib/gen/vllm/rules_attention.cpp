#include <algorithm>

#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {

using layout::Parameter;
using model::Role;

namespace {

/// Adds scales of the FP8 KV cache: quantised models have a parameter for each, whatever the cache's type. Other
/// models, and latent attention, which has no such parameters, keep those of the checkpoint.
void add_cache_scales(Rules& rules) {
  if (rules.options.weight_format == StoredFormat::unquantised) return;
  for (const auto& [name, role] :
       {std::pair("attn.q_scale", Role::q_scale), {"attn.k_scale", Role::k_scale}, {"attn.v_scale", Role::v_scale}}) {
    Parameter scale{name, {{role, {0, 1}}}};
    scale.scalar = true;
    rules.table.add(std::move(scale));
  }
}

/// Returns the rank's parts of q, of k and of v, which a checkpoint may have in one matrix. q with an output gate keeps
/// its order of rows: per head q, then gate. Rows of rotary pairs are sorted: the first rows of a head's pairs, then
/// the second rows.
Parameter qkv_proj(const Rules& rules, std::int64_t kv_parts) {
  const auto& table = rules.table;
  const std::int64_t tp = rules.tp();
  Parameter parameter{"qkv_proj.weight", {}};
  if (table.has(Role::qkv_proj)) {
    const std::int64_t q = rules.config.attention_heads * rules.config.head_dim;
    const std::int64_t kv = rules.config.kv_heads * rules.config.head_dim;
    parameter.components = {
        {Role::qkv_proj, {0, q}, tp}, {Role::qkv_proj, {q, kv}, kv_parts}, {Role::qkv_proj, {q + kv, kv}, kv_parts}};
    return parameter;
  }
  for (const Role role : {Role::q_proj, Role::q_gate_proj, Role::paired_q_proj}) {
    parameter.components.push_back(table.all(role, tp));
  }
  for (const Role role : {Role::k_proj, Role::paired_k_proj, Role::v_proj}) {
    parameter.components.push_back(table.all(role, kv_parts));
  }
  parameter.sorts_pairs = true;
  return parameter;
}

/// Norms over all heads are whole on every rank, or cut like the rows of q and k.
void add_norms(Rules& rules, std::int64_t kv_parts) {
  auto& table = rules.table;
  const bool cut = facts_of(rules.config).vllm_cut_qk_norms;
  for (const Role role : {Role::q_norm, Role::k_norm, Role::attention_post_norm}) table.whole("", role);
  table.rows("", Role::all_heads_q_norm, cut ? rules.tp() : 1);
  table.rows("", Role::all_heads_k_norm, cut ? kv_parts : 1);
}

}  // namespace

/// If there are more ranks than KV heads, TP / nkv neighbours hold the same head. o_proj's bias is whole on every rank,
/// and only the first adds it.
void add_attention(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t tp = rules.tp();
  const std::int64_t kv_parts = std::min(tp, rules.config.kv_heads);
  table.whole("", Role::attention_norm);
  table.add(qkv_proj(rules, kv_parts));
  table.stack("qkv_proj.bias", {table.all(Role::q_proj_bias, tp), table.all(Role::k_proj_bias, kv_parts),
                                table.all(Role::v_proj_bias, kv_parts)});
  add_norms(rules, kv_parts);
  table.columns("", Role::o_proj);
  table.whole("", Role::o_proj_bias);
  table.rows("", Role::sinks, tp);
  if (rules.config.mla.kv_rank == 0) add_cache_scales(rules);
}

/// The down projections are whole on every rank, in one parameter if queries are compressed too. The indexer is whole
/// too; its k_norm stays in float32.
void add_latent_attention(Rules& rules) {
  auto& table = rules.table;
  table.whole("", Role::mla_norm);
  const bool fused = table.has(Role::q_a_proj);
  table.stack(fused ? "fused_qkv_a_proj.weight" : "", {table.all(Role::q_a_proj), table.all(Role::kv_a_proj)});
  table.whole("", Role::q_a_norm);
  table.rows("", Role::q_b_proj, rules.tp());
  table.rows("", Role::mla_q_proj, rules.tp());
  table.whole("", Role::kv_a_norm);
  table.rows("", Role::kv_b_proj, rules.tp());
  table.columns("", Role::mla_o_proj);

  table.whole("", Role::indexer_q_proj);
  table.stack("wk_weights_proj.weight", {table.all(Role::indexer_k_proj), table.all(Role::indexer_weights_proj)});
  for (const Role role : {Role::indexer_k_norm, Role::indexer_k_norm_bias}) {
    Parameter norm{"", {table.all(role)}};
    norm.keeps_float32 = true;
    table.add(std::move(norm));
  }
}

}  // namespace refit::gen::vllm
