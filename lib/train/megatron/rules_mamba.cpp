#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using model::Role;

/// in_proj holds the rank's part of each of z, x, B, C and dt; the convolution that of each of x, B and C.
void add_mamba(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t tp = rules.tp();
  const std::int64_t d = rules.config.mamba.inner();
  const std::int64_t gs = rules.config.mamba.group_state();
  const std::int64_t heads = rules.config.mamba.heads;
  table.whole("mixer.in_proj.layer_norm_weight", Role::mamba_norm);
  const Role in = Role::mamba_in_proj;
  table.stack("mixer.in_proj.weight", {{in, {0, d}, tp},
                                       {in, {d, d}, tp},
                                       {in, {2 * d, gs}, tp},
                                       {in, {2 * d + gs, gs}, tp},
                                       {in, {2 * d + 2 * gs, heads}, tp}});
  for (const auto& [name, role] : {std::pair("mixer.conv1d_weight", Role::mamba_conv_weight),
                                   std::pair("mixer.conv1d_bias", Role::mamba_conv_bias)}) {
    table.stack(name, {{role, {0, d}, tp}, {role, {d, gs}, tp}, {role, {d + gs, gs}, tp}});
  }
  table.rows("mixer.A_log", Role::mamba_a_log, tp);
  table.rows("mixer.D", Role::mamba_d, tp);
  table.rows("mixer.dt_bias", Role::mamba_dt_bias, tp);
  table.rows("mixer.norm.weight", Role::mamba_gate_norm, tp);
  table.columns("mixer.out_proj.weight", Role::mamba_out_proj);
}

}  // namespace refit::train::megatron
