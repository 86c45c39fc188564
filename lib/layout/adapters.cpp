#include "layout/adapters.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"

namespace refit::layout {
namespace {

using model::Role;

/// Returns the roles of a parameter's components, each once, in order.
std::vector<Role> roles_of(const Parameter& parameter) {
  std::vector<Role> roles;
  for (const Component& component : parameter.components)
    if (std::ranges::find(roles, component.role) == roles.end()) roles.push_back(component.role);
  return roles;
}

/// Returns the first parameter that has rows of a role, or nullptr.
const Parameter* find(const std::vector<Parameter>& parameters, Role role) {
  const auto has_it = [&](const Parameter& parameter) {
    return std::ranges::find(parameter.components, role, &Component::role) != parameter.components.end();
  };
  const auto found = std::ranges::find_if(parameters, has_it);
  return found == parameters.end() ? nullptr : &*found;
}

}  // namespace

bool AdapterRules::is_fused(const Parameter& weight) const {
  return roles_of(weight).size() == 1 || (weight.experts == Experts::none ? fuses : fuses_experts);
}

Parameter matrix_of(const Parameter& weight, const model::Model& model, const Tensor& tensor,
                    const AdapterRules& rules) {
  const Tensor& base = model[tensor.adapter_of];
  const bool is_a = tensor.role == Role::lora_a;
  const bool by_columns = weight.cut == Cut::columns;
  const bool is_fused = rules.is_fused(weight);
  const std::vector<Role> roles = roles_of(weight);
  const std::int64_t all_ranks = rules.cuts_both ? rules.ranks(weight) : 1;
  const auto slice = std::ranges::find(roles, base.role) - roles.begin();
  Parameter out;
  out.experts = weight.experts == Experts::none ? Experts::none : Experts::stacked;
  out.group = weight.group;
  out.name = rules.name({weight, is_fused ? roles.front() : base.role, is_a, is_fused, is_fused ? 0 : slice});
  if (is_a) {
    out.cut = by_columns ? Cut::columns : Cut::components;
    out.row_multiple = rules.rank_multiple;
    out.components = {{is_fused ? roles.front() : base.role, {0, tensor.shape[0]}, by_columns ? 1 : all_ranks}};
    return out;
  }
  out.column_multiple = rules.rank_multiple;
  const bool as_weight = !by_columns && (is_fused || weight.cut == Cut::components);
  if (as_weight) {
    out.cut = weight.cut;
    out.components = weight.components;
    if (!is_fused) std::erase_if(out.components, [&](const Component& c) { return c.role != base.role; });
    const bool is_whole = std::ranges::all_of(out.components, [](const Component& c) { return c.parts == 1; });
    if (is_whole && out.cut == Cut::components && all_ranks > 1)
      for (Component& component : out.components) component.parts = all_ranks;
  } else {
    out.components = {{base.role, {0, base.shape[0]}, all_ranks}};
  }
  return out;
}

void share_matrices(model::Model& model, const std::vector<Parameter>& parameters, const AdapterRules& rules,
                    const std::string& key) {
  if (!rules.are_kept) return;
  struct Group {
    const Parameter* weight = nullptr;
    std::vector<std::int32_t> matrices;  ///< A of its modules
    std::vector<std::int32_t> without;   ///< weights of modules without a pair
  };
  std::map<std::tuple<const Parameter*, std::int32_t, std::int32_t>, Group> groups;
  for (const Tensor& tensor : model.tensors) {
    const Parameter* weight = find(parameters, tensor.role);
    if (weight == nullptr || !facts_of(tensor.role).is_adaptable || !rules.is_fused(*weight)) continue;
    Group& group = groups[{weight, tensor.layer, tensor.expert}];
    group.weight = weight;
    if (tensor.adapters < 0) {
      group.without.push_back(tensor.index);
    } else {
      group.matrices.push_back(tensor.adapters);
    }
  }
  for (const auto& [of, group] : groups) {
    if (group.matrices.empty()) continue;
    if (!group.without.empty()) {
      fail_usage("{}: {} has a LoRA pair and {} has none, and they share one A; give all modules of {} pairs{}", key,
                 model[model[group.matrices.front()].adapter_of].name, model[group.without.front()].name,
                 group.weight->name, rules.fuses && !rules.fuses_experts ? "" : ", or none");
    }
    const Tensor& first = model[group.matrices.front()];
    for (const std::int32_t other : group.matrices) {
      Tensor& a = model[other];
      if (a.shape[0] != first.shape[0] || a.dtype != first.dtype)
        fail_usage("{}: {} {} and {} {} are one matrix there", key, first.name, to_string(first.shape), a.name,
                   to_string(a.shape));
      if (other != first.index) a.same_as = first.index;
    }
  }
}

std::vector<std::string> adapter_violations(const model::Model& model, const std::vector<Parameter>& parameters,
                                            const AdapterRules& rules) {
  std::vector<std::string> out;
  if (!rules.are_kept) return out;
  std::set<std::pair<Role, Role>> seen;
  for (const Tensor& tensor : model.tensors) {
    if (tensor.adapter_of < 0) continue;
    const Role role = model[tensor.adapter_of].role;
    const Parameter* weight = find(parameters, role);
    if (weight == nullptr || !seen.emplace(role, tensor.role).second) continue;
    const Parameter parameter = matrix_of(*weight, model, tensor, rules);
    const std::int64_t size = rules.ranks(*weight);
    std::string what;
    if (parameter.cut == Cut::columns) {
      if (tensor.shape[1] % size != 0) what = fmt::format("{} columns", tensor.shape[1]);
    } else if (parameter.cut == Cut::stack) {
      if (local_rows(parameter, {0, 1, {}}) % size != 0)
        what = fmt::format("{} rows", local_rows(parameter, {0, 1, {}}));
    } else {
      for (const Component& component : parameter.components)
        if (component.count() % component.parts != 0) what = fmt::format("{} rows", component.count());
    }
    if (!what.empty())
      out.push_back(fmt::format("the {} of {}'s {} are not divisible by {} ranks [L14]", what, name(role),
                                name(tensor.role), size));
  }
  return out;
}

}  // namespace refit::layout
