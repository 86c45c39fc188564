#include "layout/parameter_layout.hpp"

#include <algorithm>

namespace refit::layout {

using model::Role;

ParameterLayout::ParameterLayout(const model::Model& model, std::vector<Parameter> parameters, DType precision)
    : model_(model), parameters_(std::move(parameters)), precision_(precision) {
  std::array<std::vector<std::int32_t>, model::kRoles> by_role;
  for (std::int32_t p = 0; p < static_cast<std::int32_t>(parameters_.size()); ++p) {
    for (const Component& component : parameter(p).components) {
      auto& users = by_role[static_cast<std::size_t>(component.role)];
      if (users.empty() || users.back() != p) users.push_back(p);
    }
  }
  for (std::size_t role = 0; role < model::kRoles; ++role)
    by_role_[role] = by_role[role].empty() ? -1 : by_role[role][0];
  for (const Tensor& tensor : model_.tensors) {
    if (tensor.expert > 0) continue;  // the first expert stands for all
    for (const std::int32_t p : by_role[static_cast<std::size_t>(tensor.role)]) {
      first_tensor_.try_emplace({p, tensor.layer}, tensor.index);
    }
  }
}

std::int32_t ParameterLayout::find(std::string_view name) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.name == name; });
  return found == parameters_.end() ? -1 : static_cast<std::int32_t>(found - parameters_.begin());
}

std::optional<Format> ParameterLayout::format(const Tensor& tensor) const {
  if (tensor.role == Role::unknown) return tensor.dtype;
  const std::int32_t number = find(tensor.role);
  if (number < 0 || !is_stored(tensor)) return std::nullopt;
  return format_of(parameter(number));
}

void ParameterLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  if (tensor.role == Role::unknown) {
    // Whole under its own name; the key holds its index.
    const StorageKey key{static_cast<std::int32_t>(parameters_.size()), tensor.index, -1};
    out.push_back({Box::whole(tensor.shape), {key, 0, row_major_strides(tensor.shape)}, tensor.dtype});
    return;
  }
  const auto found = target(tensor, rank);
  if (!found) return;
  const Parameter& rule = parameter(found->parameter);
  // A tied model's two names stand for the one vocabulary matrix.
  const Role as = rule.padded_rows > 0 ? rule.components.front().role : tensor.role;
  append_pieces(rule, tensor, as, slice(rule, rank), {found->parameter, found->layer, -1}, format_of(rule), out);
}

Storage ParameterLayout::storage(const StorageKey& key, Rank rank) const {
  if (static_cast<std::size_t>(key.parameter) == parameters_.size()) {
    const Tensor& tensor = model_.tensors[static_cast<std::size_t>(key.layer)];
    return {key, tensor.name, tensor.file_shape(), tensor.dtype};
  }
  const Tensor& tensor = tensor_of(key, rank);
  const Parameter& rule = parameter(key.parameter);
  return {key, storage_name(key, tensor, rank), storage_shape(rule, tensor, slice(rule, rank)), format_of(rule).dtype};
}

void ParameterLayout::fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const {
  if (static_cast<std::size_t>(key.parameter) == parameters_.size()) return;
  const Parameter& rule = parameter(key.parameter);
  append_fills(rule, tensor_of(key, rank), slice(rule, rank), key, out);
}

std::vector<StorageKey> ParameterLayout::constant_storages(Rank rank) const {
  std::vector<StorageKey> keys;
  for (const auto& [of, index] : first_tensor_) {
    const auto found = target(model_.tensors[static_cast<std::size_t>(index)], rank);
    if (!found) continue;
    const Parameter& rule = parameter(found->parameter);
    if (is_constant(rule, slice(rule, rank))) keys.push_back({found->parameter, found->layer, -1});
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

const Tensor& ParameterLayout::tensor_of(const StorageKey& key, Rank rank) const {
  const auto found = first_tensor_.find({key.parameter, key.layer < 0 ? -1 : model_layer(key.layer, rank)});
  REFIT_ASSERT(found != first_tensor_.end());
  return model_.tensors[static_cast<std::size_t>(found->second)];
}

}  // namespace refit::layout
