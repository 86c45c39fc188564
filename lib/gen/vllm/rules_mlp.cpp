#include <algorithm>

#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {

using layout::Component;
using layout::Cut;
using layout::Experts;
using layout::Parameter;
using model::Role;

namespace {

/// The multiple that FlashInfer's TRTLLM kernels, DeepGEMM and Marlin want for a rank's part of the expert width.
constexpr std::int64_t kExpertMultiple = 128;
/// The multiple that Marlin wants for the experts' inputs and outputs.
constexpr std::int64_t kMarlinMultiple = 256;

/// Adds gate and up, fused into gate_up_proj; up alone keeps its name.
void add_gate_up(Rules& rules, Role gate, Role up, std::int64_t parts) {
  auto& table = rules.table;
  if (!table.has(gate)) return table.rows("", up, parts);
  table.stack("gate_up_proj.weight", {table.all(gate, parts), table.all(up, parts)});
}

/// Returns a parameter of experts with the settings that all of them share.
Parameter expert_parameter(const Rules& rules, const char* name, std::vector<Component> components, Cut cut) {
  Parameter parameter{name, std::move(components), cut, Experts::stacked};
  const MoeBackend backend = rules.options.moe_backend;
  if (backend == MoeBackend::deep_gemm) parameter.cut_multiple = kExpertMultiple;
  const bool rounded = backend == MoeBackend::flashinfer_trtllm || backend == MoeBackend::deep_gemm;
  if (rounded) parameter.part_multiple = kExpertMultiple;
  return parameter;
}

/// Returns w13 of gated experts: the rank's part of gate, then of up; the other way round for flashinfer_cutlass, of
/// quantised experts only after loading (processed.hpp).
Parameter gate_up(const Rules& rules, Component gate, Component up) {
  std::vector<Component> halves{gate, up};
  const bool is_quantised = rules.options.weight_format != StoredFormat::unquantised;
  if (rules.options.moe_backend == MoeBackend::flashinfer_cutlass && !is_quantised) std::swap(halves[0], halves[1]);
  return expert_parameter(rules, "w13_weight", std::move(halves), Cut::components);
}

/// Adds biases of a dense MLP: that of down is added once, and is whole on every rank.
void add_biases(Rules& rules, bool whole) {
  auto& table = rules.table;
  const std::int64_t parts = whole ? 1 : rules.tp();
  table.stack("gate_up_proj.bias", {table.all(Role::gate_proj_bias, parts), table.all(Role::up_proj_bias, parts)});
  table.whole("", Role::down_proj_bias);
}

/// Adds a dense MLP or shared experts, cut over TP or whole on every rank.
void add_dense(Rules& rules, Role gate, Role up, Role down, bool whole) {
  add_gate_up(rules, gate, up, whole ? 1 : rules.tp());
  if (whole) {
    rules.table.whole("", down);
  } else {
    rules.table.columns("", down);
  }
}

/// Adds transposed experts, gate columns then up columns (Llama 4, Qwen3-VL), stored as if each had its own matrices.
void add_transposed_experts(Rules& rules, std::int64_t parts) {
  const Role role = Role::transposed_gate_up;
  if (!rules.table.has(role)) return;
  const std::int64_t width = rules.table.rows(role) / 2;
  rules.table.add(gate_up(rules, {role, {0, width}, parts}, {role, {width, width}, parts}));
  rules.table.add(expert_parameter(rules, "w2_weight", {rules.table.all(Role::transposed_down)}, Cut::columns));
}

/// Returns a parameter of gpt-oss's experts. In MXFP4 their width is cut between blocks, and sizes are rounded up for
/// Marlin; `width_rows`: rows of the storage for one of the width.
Parameter interleaved_parameter(const Rules& rules, const char* name, Component component, Cut cut,
                                std::int64_t width_rows = 1) {
  Parameter parameter = expert_parameter(rules, name, {component}, cut);
  if (rules.options.weight_format != StoredFormat::mxfp4) return parameter;
  parameter.cut_multiple = kMxBlock.columns;
  if (rules.options.moe_backend == MoeBackend::marlin) parameter.part_multiple = width_rows * kExpertMultiple;
  return parameter;
}

/// Adds gpt-oss's experts: transposed, gate and up alternating as in the checkpoint. If experts are cut, w2's bias is
/// only on the first rank of the MoE group.
void add_interleaved_experts(Rules& rules, std::int64_t parts) {
  auto& table = rules.table;
  if (!table.has(Role::interleaved_gate_up)) return;
  const std::int64_t multiple = rules.options.moe_backend == MoeBackend::marlin ? kMarlinMultiple : 1;
  Parameter gate_up =
      interleaved_parameter(rules, "w13_weight", table.all(Role::interleaved_gate_up, parts), Cut::components, 2);
  gate_up.column_multiple = multiple;
  table.add(std::move(gate_up));
  table.add(
      interleaved_parameter(rules, "w13_bias", table.all(Role::interleaved_gate_up_bias, parts), Cut::components, 2));
  Parameter down = interleaved_parameter(rules, "w2_weight", table.all(Role::transposed_down), Cut::columns);
  down.row_multiple = multiple;
  table.add(std::move(down));
  Parameter bias{"w2_bias", {table.all(Role::packed_down_bias)}, Cut::components, Experts::stacked};
  bias.first_rank_only = true;
  bias.row_multiple = multiple;
  table.add(std::move(bias));
}

}  // namespace

/// Checkpoints may have gate and up in one matrix (Phi-3). Dense MLPs are whole on every rank of a sequence-parallel
/// MoE with the class for NVIDIA's GPUs.
void add_mlp(Rules& rules) {
  rules.table.whole("", Role::mlp_norm);
  rules.table.whole("", Role::mlp_post_norm);
  const bool whole = rules.options.model_class == ModelClass::nvidia && rules.options.is_sequence_parallel();
  add_dense(rules, Role::gate_proj, Role::up_proj, Role::down_proj, whole);
  add_biases(rules, whole);
  const Role fused = Role::gate_up_proj;
  const std::int64_t width = rules.table.rows(fused) / 2;
  rules.table.stack("", {{fused, {0, width}, rules.tp()}, {fused, {width, width}, rules.tp()}});
}

void add_experts(Rules& rules) {
  auto& table = rules.table;
  // Experts are whole with EP: they are cut over one rank.
  const std::int64_t parts = rules.options.sizes.ep > 1 ? 1 : rules.options.moe_ranks();
  table.whole("", Role::moe_norm);
  Parameter router{"", {table.all(Role::router)}};
  router.keeps_float32 = facts_of(rules.config).vllm_float32_router;
  table.add(std::move(router));
  table.whole("", Role::router_bias);
  Parameter bias{"", {table.all(Role::expert_bias)}};
  bias.keeps_float32 = true;
  table.add(std::move(bias));

  if (table.has(Role::expert_gate)) {
    table.add(gate_up(rules, table.all(Role::expert_gate, parts), table.all(Role::expert_up, parts)));
  } else {
    table.add(expert_parameter(rules, "w13_weight", {table.all(Role::expert_up, parts)}, Cut::components));
  }
  table.add(expert_parameter(rules, "w2_weight", {table.all(Role::expert_down)}, Cut::columns));
  const std::int64_t packed = table.rows(Role::packed_gate_up) / 2;
  table.add(
      gate_up(rules, {Role::packed_gate_up, {0, packed}, parts}, {Role::packed_gate_up, {packed, packed}, parts}));
  table.add(expert_parameter(rules, "w13_weight", {table.all(Role::packed_up, parts)}, Cut::components));
  table.add(gate_up(rules, table.all(Role::stacked_gate, parts), table.all(Role::stacked_up, parts)));
  table.add(expert_parameter(rules, "w2_weight", {table.all(Role::packed_down)}, Cut::columns));
  add_transposed_experts(rules, parts);
  add_interleaved_experts(rules, parts);

  const bool whole = rules.options.is_sequence_parallel() && !facts_of(rules.config).vllm_cut_shared_experts;
  add_dense(rules, Role::shared_gate_proj, Role::shared_up_proj, Role::shared_down_proj, whole);
  table.whole("", Role::shared_router);
  table.whole("", Role::latent_in);
  table.whole("", Role::latent_out);
}

}  // namespace refit::gen::vllm
