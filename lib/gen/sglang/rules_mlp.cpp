#include <algorithm>

#include "gen/sglang/rules.hpp"

namespace refit::gen::sglang {

using layout::Component;
using layout::Cut;
using layout::Experts;
using layout::Parameter;
using model::Role;

namespace {

/// FlashInfer's TRTLLM kernels want a rank's part of the expert width in multiples of this.
constexpr std::int64_t kExpertMultiple = 128;

/// A dense MLP or shared experts, cut over TP or whole on every rank. Where there is a gate, gate and up are fused into
/// gate_up_proj; up alone keeps its name.
void add_dense(Rules& rules, Role gate, Role up, Role down, bool whole) {
  auto& table = rules.table;
  const std::int64_t parts = whole ? 1 : rules.tp();
  table.stack(table.has(gate) ? "gate_up_proj.weight" : "", {table.all(gate, parts), table.all(up, parts)});
  if (whole) {
    table.whole("", down);
  } else {
    table.columns("", down);
  }
}

/// What is said of all matrices of experts alike.
Parameter expert_matrix(const Rules& rules, const char* name, std::vector<Component> components, Cut cut) {
  const MoeRunnerBackend backend = runner_backend(rules.config, rules.options);
  Parameter parameter{name, std::move(components), cut, Experts::stacked};
  if (backend == MoeRunnerBackend::flashinfer_trtllm)
    parameter.cut_multiple = parameter.part_multiple = kExpertMultiple;
  parameter.transposed_storage = backend == MoeRunnerBackend::triton_kernel;
  return parameter;
}

/// w13 of gated experts: the rank's part of gate, then of up, or the other way round.
Parameter gate_up(const Rules& rules, Component gate, Component up) {
  const MoeRunnerBackend backend = runner_backend(rules.config, rules.options);
  const bool plain = rules.options.weight_format == StoredFormat::unquantised;
  std::vector<Component> halves{gate, up};
  if (backend == MoeRunnerBackend::flashinfer_trtllm || (backend == MoeRunnerBackend::flashinfer_cutlass && plain))
    std::swap(halves[0], halves[1]);
  Parameter parameter = expert_matrix(rules, "w13_weight", std::move(halves), Cut::components);
  parameter.interleaved = rules.options.swiglu_interleaved;
  return parameter;
}

/// One tensor for each expert. A fused shared expert has the last slot of the same parameters.
void add_single_experts(Rules& rules, std::int64_t parts) {
  auto& table = rules.table;
  const bool fused = fuses_shared_expert(rules.config, rules.options);
  Parameter first = table.has(Role::expert_gate)
                        ? gate_up(rules, table.all(Role::expert_gate, parts), table.all(Role::expert_up, parts))
                        : expert_matrix(rules, "w13_weight", {table.all(Role::expert_up, parts)}, Cut::components);
  Parameter second = expert_matrix(rules, "w2_weight", {table.all(Role::expert_down)}, Cut::columns);
  if (fused) {
    first.fused_roles = {{Role::shared_gate_proj, Role::expert_gate}, {Role::shared_up_proj, Role::expert_up}};
    second.fused_roles = {{Role::shared_down_proj, Role::expert_down}};
  }
  table.add(std::move(first));
  table.add(std::move(second));
}

/// Adds experts that are stacked in tensors of all: gate rows above up rows, gate columns beside up columns, gate and
/// up apart, or up alone.
void add_packed_experts(Rules& rules, std::int64_t parts) {
  auto& table = rules.table;
  for (const Role both : {Role::packed_gate_up, Role::transposed_gate_up}) {
    const std::int64_t width = table.rows(both) / 2;
    table.add(gate_up(rules, {both, {0, width}, parts}, {both, {width, width}, parts}));
  }
  table.add(gate_up(rules, table.all(Role::stacked_gate, parts), table.all(Role::stacked_up, parts)));
  table.add(expert_matrix(rules, "w13_weight", {table.all(Role::packed_up, parts)}, Cut::components));
  table.add(expert_matrix(rules, "w2_weight", {table.all(Role::packed_down)}, Cut::columns));
}

/// gpt-oss: transposed, gate and up alternating as in the checkpoint; biases in float32, w2's on the first rank of
/// those that share an expert only.
void add_interleaved_experts(Rules& rules, std::int64_t parts) {
  auto& table = rules.table;
  table.add(expert_matrix(rules, "w13_weight", {table.all(Role::interleaved_gate_up, parts)}, Cut::components));
  table.add(expert_matrix(rules, "w2_weight", {table.all(Role::transposed_down)}, Cut::columns));
  Parameter first{
      "w13_weight_bias", {table.all(Role::interleaved_gate_up_bias, parts)}, Cut::components, Experts::stacked};
  Parameter second{"w2_weight_bias", {table.all(Role::packed_down_bias)}, Cut::components, Experts::stacked};
  second.first_rank_only = true;
  first.keeps_float32 = second.keeps_float32 = true;
  table.add(std::move(first));
  table.add(std::move(second));
}

void add_router(Rules& rules) {
  auto& table = rules.table;
  for (const Role role : {Role::router, Role::router_bias}) {
    Parameter router{"", {table.all(role)}};
    if (rules.facts.config_dtype) router.own_dtype = rules.config.dtype;
    table.add(std::move(router));
  }
  Parameter bias{"", {table.all(Role::expert_bias)}};
  bias.keeps_float32 = true;
  table.add(std::move(bias));
}

}  // namespace

void add_mlp(Rules& rules) {
  rules.table.whole("", Role::mlp_norm);
  const bool whole = rules.facts.has_dense_tp && rules.options.moe_dense_tp_size == 1;
  add_dense(rules, Role::gate_proj, Role::up_proj, Role::down_proj, whole);
}

/// Shared experts are cut over TP like a dense MLP, also with EP and attention data parallelism.
void add_experts(Rules& rules) {
  auto& table = rules.table;
  const std::int64_t parts = rules.options.moe_tp();
  table.whole("", Role::moe_norm);
  add_router(rules);
  add_single_experts(rules, parts);
  add_packed_experts(rules, parts);
  add_interleaved_experts(rules, parts);
  if (!fuses_shared_expert(rules.config, rules.options)) {
    const bool whole = rules.options.moe_a2a_backend == MoeA2aBackend::deepep;
    add_dense(rules, Role::shared_gate_proj, Role::shared_up_proj, Role::shared_down_proj, whole);
  }
  table.whole("", Role::shared_router);
  table.whole("", Role::latent_in);
  table.whole("", Role::latent_out);
}

}  // namespace refit::gen::sglang
