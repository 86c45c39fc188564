#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {

using layout::Parameter;
using model::Role;

namespace {

Parameter float32_rows(const Rules& rules, Role role) {
  Parameter parameter{"", {rules.table.all(role, rules.tp())}};
  parameter.keeps_float32 = true;
  return parameter;
}

}  // namespace

/// in_proj holds the rank's part of each of z, x, B, C and dt, the convolution that of each of x, B and C; a single
/// group is whole on every rank. vLLM keeps A = -exp(A_log), in float32.
void add_mamba(Rules& rules) {
  auto& table = rules.table;
  const model::Mamba& sizes = rules.config.mamba;
  const std::int64_t tp = rules.tp();
  const std::int64_t d = sizes.inner();
  const std::int64_t gs = sizes.group_state();
  const std::int64_t of_groups = sizes.groups == 1 ? 1 : tp;
  table.whole("", Role::mamba_norm);
  const Role in = Role::mamba_in_proj;
  table.stack("", {{in, {0, d}, tp},
                   {in, {d, d}, tp},
                   {in, {2 * d, gs}, of_groups},
                   {in, {2 * d + gs, gs}, of_groups},
                   {in, {2 * d + 2 * gs, sizes.heads}, tp}});
  for (const Role role : {Role::mamba_conv_weight, Role::mamba_conv_bias}) {
    table.stack("", {{role, {0, d}, tp}, {role, {d, gs}, of_groups}, {role, {d + gs, gs}, of_groups}});
  }
  Parameter a = float32_rows(rules, Role::mamba_a_log);
  a.name = "A";
  a.conversion = Conversion::negative_exp;
  table.add(std::move(a));
  table.rows("", Role::mamba_d, tp);
  table.rows("", Role::mamba_dt_bias, tp);
  table.rows("", Role::mamba_gate_norm, tp);
  table.columns("", Role::mamba_out_proj);
}

/// in_proj_qkvz holds the rank's part of each of q, k, v and z, in_proj_ba that of b and a. If the checkpoint groups
/// them by key head (Qwen3-Next), the rank has its rows of that grouping. A_log is stored as it is, in float32.
void add_gated_delta_net(Rules& rules) {
  auto& table = rules.table;
  const model::GatedDeltaNet& sizes = rules.config.gdn;
  const std::int64_t tp = rules.tp();
  const std::int64_t keys = sizes.keys();
  const Role qkv = Role::gdn_qkv_proj;
  table.whole("", Role::gdn_norm);
  table.stack("in_proj_qkvz.weight", {{qkv, {0, keys}, tp},
                                      {qkv, {keys, keys}, tp},
                                      {qkv, {2 * keys, sizes.values()}, tp},
                                      table.all(Role::gdn_z_proj, tp)});
  table.stack("in_proj_ba.weight", {table.all(Role::gdn_b_proj, tp), table.all(Role::gdn_a_proj, tp)});
  table.rows("", Role::gdn_qkvz_proj, tp);
  table.rows("", Role::gdn_ba_proj, tp);
  table.stack("", {{Role::gdn_conv, {0, keys}, tp},
                   {Role::gdn_conv, {keys, keys}, tp},
                   {Role::gdn_conv, {2 * keys, sizes.values()}, tp}});
  table.add(float32_rows(rules, Role::gdn_a_log));
  table.rows("", Role::gdn_dt_bias, tp);
  table.whole("", Role::gdn_out_norm);
  table.columns("", Role::gdn_out_proj);
}

}  // namespace refit::gen::vllm
