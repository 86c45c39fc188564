#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using layout::Component;
using layout::Cut;
using layout::Experts;
using layout::Parameter;
using model::Role;

namespace {

/// Adds linear_fc1: the rank's part of gate, then of up; up alone if there is no gate.
void add_fc1(Rules& rules, std::string name, Role gate, Role up) {
  rules.table.stack(std::move(name), {rules.table.all(gate, rules.tp()), rules.table.all(up, rules.tp())});
}

/// Adds a storage for each local expert, cut over the expert tensor parallel ranks.
void add_expert(Rules& rules, std::string name, std::vector<Component> components, Cut cut) {
  for (Component& component : components) component.parts = cut == Cut::columns ? 1 : rules.options.sizes.etp;
  Parameter parameter{std::move(name), std::move(components), cut, Experts::each};
  rules.table.add(std::move(parameter));
}

/// Adds linear_fc2's bias: every rank has all of it, and it is added once.
void add_expert_whole(Rules& rules, std::string name, Role role) {
  rules.table.add({std::move(name), {rules.table.all(role)}, Cut::components, Experts::each});
}

/// Returns one half of interleaved experts.
Component half(const Rules& rules, Role role, int which) {
  Component component = rules.table.all(role);
  component.half = which;
  return component;
}

}  // namespace

void add_mlp(Rules& rules) {
  const Role fused = Role::gate_up_proj;
  const std::int64_t width = rules.table.rows(fused) / 2;
  rules.table.whole("mlp.linear_fc1.layer_norm_weight", Role::mlp_norm);
  add_fc1(rules, "mlp.linear_fc1.weight", Role::gate_proj, Role::up_proj);
  rules.table.stack("mlp.linear_fc1.weight", {{fused, {0, width}, rules.tp()}, {fused, {width, width}, rules.tp()}});
  rules.table.columns("mlp.linear_fc2.weight", Role::down_proj);
  rules.table.whole("mlp.linear_fc2.post_layernorm.weight", Role::mlp_post_norm);
}

/// Names of expert weights end in "weight" and the local expert's number. Packed tensors hold all experts of a layer:
/// gate rows then up rows (Qwen3.5), the same transposed (Qwen3-VL, Llama 4), or transposed with gate and up
/// alternating (gpt-oss).
void add_experts(Rules& rules) {
  auto& table = rules.table;
  table.whole("pre_mlp_layernorm.weight", Role::moe_norm);
  table.whole("mlp.router.weight", Role::router);
  table.whole("mlp.router.bias", Role::router_bias);
  Parameter bias{"mlp.router.expert_bias", {table.all(Role::expert_bias)}};
  bias.keeps_float32 = true;
  table.add(std::move(bias));

  const std::string fc1 = "mlp.experts.linear_fc1.weight";
  const std::string fc2 = "mlp.experts.linear_fc2.weight";
  add_expert(rules, fc1, {table.all(Role::expert_gate), table.all(Role::expert_up)}, Cut::components);
  add_expert(rules, fc2, {table.all(Role::expert_down)}, Cut::columns);
  const std::int64_t packed = table.rows(Role::packed_gate_up) / 2;
  add_expert(rules, fc1, {{Role::packed_gate_up, {0, packed}}, {Role::packed_gate_up, {packed, packed}}},
             Cut::components);
  add_expert(rules, fc1, {table.all(Role::packed_up)}, Cut::components);
  add_expert(rules, fc1, {table.all(Role::stacked_gate), table.all(Role::stacked_up)}, Cut::components);
  add_expert(rules, fc2, {table.all(Role::packed_down)}, Cut::columns);
  const Role transposed = Role::transposed_gate_up;
  const std::int64_t columns = table.rows(transposed) / 2;
  add_expert(rules, fc1, {{transposed, {0, columns}}, {transposed, {columns, columns}}}, Cut::components);
  const Role gate_up = Role::interleaved_gate_up;
  const Role gate_up_bias = Role::interleaved_gate_up_bias;
  add_expert(rules, fc1, {half(rules, gate_up, 0), half(rules, gate_up, 1)}, Cut::components);
  add_expert(rules, "mlp.experts.linear_fc1.bias", {half(rules, gate_up_bias, 0), half(rules, gate_up_bias, 1)},
             Cut::components);
  add_expert(rules, fc2, {table.all(Role::transposed_down)}, Cut::columns);
  add_expert_whole(rules, "mlp.experts.linear_fc2.bias", Role::packed_down_bias);

  add_fc1(rules, "mlp.shared_experts.linear_fc1.weight", Role::shared_gate_proj, Role::shared_up_proj);
  table.columns("mlp.shared_experts.linear_fc2.weight", Role::shared_down_proj);
  table.whole("mlp.shared_experts.gate_weight", Role::shared_router);
  table.whole("mlp.fc1_latent_proj.weight", Role::latent_in);
  table.whole("mlp.fc2_latent_proj.weight", Role::latent_out);
}

}  // namespace refit::train::megatron
