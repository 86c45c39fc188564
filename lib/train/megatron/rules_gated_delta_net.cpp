#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using layout::Component;
using model::GatedDeltaNet;
using model::Role;

namespace {

/// Returns the components of in_proj if the checkpoint has in_proj_qkv (q, then k, then v), _z, _b and _a (Qwen3.5).
std::vector<Component> from_separate(const GatedDeltaNet& sizes, std::int64_t tp) {
  const std::int64_t keys = sizes.keys();
  const std::int64_t values = sizes.values();
  return {{Role::gdn_qkv_proj, {0, keys}, tp},
          {Role::gdn_qkv_proj, {keys, keys}, tp},
          {Role::gdn_qkv_proj, {2 * keys, values}, tp},
          {Role::gdn_z_proj, {0, values}, tp},
          {Role::gdn_b_proj, {0, sizes.value_heads}, tp},
          {Role::gdn_a_proj, {0, sizes.value_heads}, tp}};
}

/// Returns them if it has in_proj_qkvz, per key head [q k v z], and in_proj_ba, per key head [b a] (Qwen3-Next).
std::vector<Component> from_grouped(const GatedDeltaNet& sizes, std::int64_t tp) {
  const std::int64_t heads = sizes.value_heads / sizes.key_heads;  // value heads of a key head
  const std::int64_t values = heads * sizes.value_dim;
  const auto of_each_head = [&](Role role, std::int64_t begin, std::int64_t rows, std::int64_t distance) {
    Component component{role, {begin, rows}, tp};
    component.ranges = sizes.key_heads;
    component.distance = distance;
    return component;
  };
  const std::int64_t dk = sizes.key_dim;
  const std::int64_t group = 2 * dk + 2 * values;
  return {of_each_head(Role::gdn_qkvz_proj, 0, dk, group),
          of_each_head(Role::gdn_qkvz_proj, dk, dk, group),
          of_each_head(Role::gdn_qkvz_proj, 2 * dk, values, group),
          of_each_head(Role::gdn_qkvz_proj, 2 * dk + values, values, group),
          of_each_head(Role::gdn_ba_proj, 0, heads, 2 * heads),
          of_each_head(Role::gdn_ba_proj, heads, heads, 2 * heads)};
}

}  // namespace

/// in_proj holds the rank's part of each of q, k, v, z, b and a; the convolution that of each of q, k and v. Megatron
/// zero-centres out_norm, and no other norm: it keeps the value - 1.
void add_gated_delta_net(Rules& rules) {
  auto& table = rules.table;
  const GatedDeltaNet& sizes = rules.config.gdn;
  const std::int64_t tp = rules.tp();
  const std::int64_t keys = sizes.keys();
  const bool grouped = table.has(Role::gdn_qkvz_proj);
  table.whole("self_attention.in_proj.layer_norm_weight", Role::gdn_norm);
  if (table.has(Role::gdn_conv)) {
    table.stack("self_attention.in_proj.weight", grouped ? from_grouped(sizes, tp) : from_separate(sizes, tp));
  }
  table.stack("self_attention.conv1d.weight", {{Role::gdn_conv, {0, keys}, tp},
                                               {Role::gdn_conv, {keys, keys}, tp},
                                               {Role::gdn_conv, {2 * keys, sizes.values()}, tp}});
  table.rows("self_attention.A_log", Role::gdn_a_log, tp);
  table.rows("self_attention.dt_bias", Role::gdn_dt_bias, tp);
  layout::Parameter norm{"self_attention.out_norm.weight", {table.all(Role::gdn_out_norm)}};
  norm.conversion = Conversion::minus_one;
  table.add(std::move(norm));
  table.columns("self_attention.out_proj.weight", Role::gdn_out_proj);
}

}  // namespace refit::train::megatron
