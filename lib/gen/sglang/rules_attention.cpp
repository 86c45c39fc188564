#include <algorithm>

#include "gen/sglang/rules.hpp"
#include "layout/mixers.hpp"

namespace refit::gen::sglang {

using layout::Component;
using layout::Cut;
using layout::Parameter;
using model::Role;

/// q (with an output gate: of its rows as they are, per head q then gate), k and v, each cut over attention's ranks;
/// where there are more of these than KV heads, neighbours hold the same head. o_proj's bias is whole on every rank.
/// gpt-oss builds its projections in config.json's dtype, and keeps sinks in one that depends on the GPU.
void add_attention(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t ranks = rules.attention_tp();
  const std::int64_t kv_parts = std::min(ranks, rules.config.kv_heads);
  const auto add = [&](const char* name, std::vector<Component> components, Cut cut) {
    Parameter parameter{name, std::move(components), cut};
    if (rules.facts.config_dtype) parameter.own_dtype = rules.config.dtype;
    table.add(std::move(parameter));
  };
  table.whole("", Role::attention_norm);
  add("qkv_proj.weight",
      {table.all(Role::q_proj, ranks), table.all(Role::q_gate_proj, ranks), table.all(Role::k_proj, kv_parts),
       table.all(Role::v_proj, kv_parts)},
      Cut::components);
  add("qkv_proj.bias",
      {table.all(Role::q_proj_bias, ranks), table.all(Role::k_proj_bias, kv_parts),
       table.all(Role::v_proj_bias, kv_parts)},
      Cut::components);
  for (const Role role : {Role::q_norm, Role::k_norm}) table.whole("", role);
  add("", {table.all(Role::o_proj)}, Cut::columns);
  add("", {table.all(Role::o_proj_bias)}, Cut::components);
  Parameter sinks{"", {table.all(Role::sinks, ranks)}};
  sinks.own_dtype = rules.options.gpu_arch == GpuArch::sm90 ? DType::bf16 : DType::f32;
  table.add(std::move(sinks));
}

/// The down projections are whole on every rank, in one parameter where queries are compressed too.
void add_latent_attention(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t ranks = rules.attention_tp();
  const bool fused = table.has(Role::q_a_proj);
  table.whole("", Role::mla_norm);
  table.stack(fused ? "fused_qkv_a_proj_with_mqa.weight" : "", {table.all(Role::q_a_proj), table.all(Role::kv_a_proj)});
  table.whole("", Role::q_a_norm);
  table.rows("", Role::q_b_proj, ranks);
  table.rows("", Role::mla_q_proj, ranks);
  table.whole("", Role::kv_a_norm);
  table.rows("", Role::kv_b_proj, ranks);
  table.columns("", Role::mla_o_proj);
}

/// Mamba2 and Gated DeltaNet are cut like attention. Qwen3-Next's class builds the norm in config.json's dtype.
void add_mixers(Rules& rules) {
  const std::int64_t ranks = rules.attention_tp();
  layout::add_mamba(rules.table, rules.config.mamba, ranks);
  layout::add_gated_delta_net(rules.table, rules.config.gdn, ranks);
  Parameter norm{"", {rules.table.all(Role::gdn_out_norm)}};
  if (rules.facts.config_dtype_gdn_norm) norm.own_dtype = rules.config.dtype;
  rules.table.add(std::move(norm));
}

}  // namespace refit::gen::sglang
