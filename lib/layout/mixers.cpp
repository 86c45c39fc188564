#include "layout/mixers.hpp"

namespace refit::layout {

using model::Role;

namespace {

Parameter float32_rows(const ParameterTable& table, Role role, std::int64_t parts) {
  Parameter parameter{"", {table.all(role, parts)}};
  parameter.keeps_float32 = true;
  return parameter;
}

}  // namespace

void add_mamba(ParameterTable& table, const model::Mamba& sizes, std::int64_t parts) {
  const std::int64_t d = sizes.inner();
  const std::int64_t gs = sizes.group_state();
  const std::int64_t of_groups = sizes.groups == 1 ? 1 : parts;
  table.whole("", Role::mamba_norm);
  const Role in = Role::mamba_in_proj;
  table.stack("", {{in, {0, d}, parts},
                   {in, {d, d}, parts},
                   {in, {2 * d, gs}, of_groups},
                   {in, {2 * d + gs, gs}, of_groups},
                   {in, {2 * d + 2 * gs, sizes.heads}, parts}});
  for (const Role role : {Role::mamba_conv_weight, Role::mamba_conv_bias}) {
    table.stack("", {{role, {0, d}, parts}, {role, {d, gs}, of_groups}, {role, {d + gs, gs}, of_groups}});
  }
  Parameter a = float32_rows(table, Role::mamba_a_log, parts);
  a.name = "A";
  a.conversion = Conversion::negative_exp;
  table.add(std::move(a));
  table.rows("", Role::mamba_d, parts);
  table.rows("", Role::mamba_dt_bias, parts);
  table.rows("", Role::mamba_gate_norm, parts);
  table.columns("", Role::mamba_out_proj);
}

void add_gated_delta_net(ParameterTable& table, const model::GatedDeltaNet& sizes, std::int64_t parts) {
  const std::int64_t keys = sizes.keys();
  const Role qkv = Role::gdn_qkv_proj;
  table.whole("", Role::gdn_norm);
  table.stack("in_proj_qkvz.weight", {{qkv, {0, keys}, parts},
                                      {qkv, {keys, keys}, parts},
                                      {qkv, {2 * keys, sizes.values()}, parts},
                                      table.all(Role::gdn_z_proj, parts)});
  table.stack("in_proj_ba.weight", {table.all(Role::gdn_b_proj, parts), table.all(Role::gdn_a_proj, parts)});
  table.rows("", Role::gdn_qkvz_proj, parts);
  table.rows("", Role::gdn_ba_proj, parts);
  table.stack("", {{Role::gdn_conv, {0, keys}, parts},
                   {Role::gdn_conv, {keys, keys}, parts},
                   {Role::gdn_conv, {2 * keys, sizes.values()}, parts}});
  table.add(float32_rows(table, Role::gdn_a_log, parts));
  table.rows("", Role::gdn_dt_bias, parts);
  table.columns("", Role::gdn_out_proj);
}

}  // namespace refit::layout
