#include "layout/parameter_layout.hpp"

#include <algorithm>

#include "core/hash.hpp"

namespace refit::layout {

using model::Role;

namespace {

bool is_vision(Role role) { return facts_of(role).place == model::Place::vision; }

}  // namespace

ParameterLayout::ParameterLayout(const model::Model& model, std::vector<Parameter> parameters, DType precision,
                                 const ScaleRules& scales, const AdapterRules& adapters)
    : model_(model),
      parameters_(std::move(parameters)),
      precision_(precision),
      is_quantised_(scales.weight_format != StoredFormat::unquantised) {
  ByRole by_role;
  for (std::int32_t p = 0; p < static_cast<std::int32_t>(parameters_.size()); ++p) {
    for (const Component& component : parameter(p).components) {
      auto& users = by_role[static_cast<std::size_t>(component.role)];
      if (users.empty() || users.back() != p) users.push_back(p);
    }
  }
  for (std::size_t role = 0; role < model::kRoles; ++role)
    by_role_[role] = by_role[role].empty() ? -1 : by_role[role][0];
  for (std::int32_t p = 0; p < static_cast<std::int32_t>(parameters_.size()); ++p) {
    for (const FusedRole& fused : parameter(p).fused_roles) by_role_[static_cast<std::size_t>(fused.shared)] = p;
  }
  if (is_quantised_) add_parts(by_role, scales);
  if (adapters.are_kept) add_adapters(by_role, adapters);
  for (const Tensor& tensor : model_.tensors) {
    if (tensor.expert > 0) continue;  // the first expert stands for all
    for (const std::int32_t p : by_role[static_cast<std::size_t>(weight_of(tensor).role)]) {
      const std::int32_t number = parameter_of(tensor, p);
      if (number < 0) continue;
      const std::int32_t layer = is_vision(tensor.role) ? tensor.unit : tensor.layer;
      first_tensor_.try_emplace({number, layer}, tensor.index);
      for (auto [constant, end] = constants_.equal_range(number); constant != end; ++constant)
        first_tensor_.try_emplace({constant->second, layer}, tensor.index);
    }
  }
}

void ParameterLayout::add_parts(const ByRole& by_role, const ScaleRules& rules) {
  for (const Tensor& tensor : model_.tensors) {
    if (tensor.scale_of < 0 || tensor.role == Role::group_index) continue;  // nobody keeps the indices
    for (const std::int32_t p : by_role[static_cast<std::size_t>(weight_of(tensor).role)]) {
      const auto [entry, is_new] = parts_.try_emplace({p, tensor.role}, static_cast<std::int32_t>(parameters_.size()));
      if (!is_new) continue;
      const Parameter weight = parameter(p);
      parameters_.push_back(part_of(weight, rules, model_.quantisation, tensor));
      if (tensor.role != Role::block_scale) continue;
      for (const auto& [word, value] : rules.constants) {
        constants_.emplace(entry->second, static_cast<std::int32_t>(parameters_.size()));
        parameters_.push_back(constant_of(weight, word, value));
      }
    }
  }
}

/// The tensors of a fused parameter have one A, and one B; the others one of each.
void ParameterLayout::add_adapters(const ByRole& by_role, const AdapterRules& rules) {
  std::map<std::pair<std::int32_t, std::string>, std::int32_t> by_name;
  for (const Tensor& tensor : model_.tensors) {
    if (tensor.adapter_of < 0) continue;
    const Role role = weight_of(tensor).role;
    for (const std::int32_t p : by_role[static_cast<std::size_t>(role)]) {
      const auto [entry, is_new] = adapters_.try_emplace({p, role, tensor.role}, -1);
      if (!is_new) continue;
      Parameter matrix = matrix_of(parameter(p), model_, tensor, rules);
      const auto number = static_cast<std::int32_t>(parameters_.size());
      entry->second = by_name.try_emplace({p, matrix.name}, number).first->second;
      if (entry->second != number) continue;
      parameters_.push_back(std::move(matrix));
      adapted_.emplace(number, p);
    }
  }
}

std::int32_t ParameterLayout::parameter_of(const Tensor& tensor, std::int32_t number) const {
  if (tensor.adapter_of >= 0) {
    const auto found = adapters_.find({number, weight_of(tensor).role, tensor.role});
    return found == adapters_.end() ? -1 : found->second;
  }
  if (tensor.scale_of < 0) {
    const bool is_apart = is_quantised_ && tensor.scales >= 0 && is_packed(model_.quantisation.format);
    return is_apart ? -1 : number;
  }
  const auto found = parts_.find({number, tensor.role});
  if (found == parts_.end()) return -1;
  // Of some parts an engine keeps those of the last component only.
  const std::vector<Component>& components = parameter(found->second).components;
  const bool is_kept =
      !is_of_whole_weight(tensor.role) || components.size() > 1 || components.front().role == weight_of(tensor).role;
  return is_kept ? found->second : -1;
}

std::int32_t ParameterLayout::find_vision(const Tensor& tensor) const {
  const std::int32_t first = find(tensor.role);
  for (std::int32_t p = first; p >= 0 && p < static_cast<std::int32_t>(parameters_.size()); ++p) {
    const Component& component = parameter(p).components.front();
    if (component.role == tensor.role && component.count() == tensor.shape[0]) return p;
  }
  return first;
}

std::int32_t ParameterLayout::find(std::string_view name) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.name == name; });
  return found == parameters_.end() ? -1 : static_cast<std::int32_t>(found - parameters_.begin());
}

std::uint64_t ParameterLayout::placement_class(const Tensor& tensor) const {
  const Tensor& weight = weight_of(tensor);
  std::uint64_t result = combine(class_of(weight), weight.scales >= 0 ? 1 : 0);
  if (tensor.scale_of < 0 && tensor.adapter_of < 0) return result;
  for (const std::int64_t extent : weight.shape) result = combine(result, static_cast<std::uint64_t>(extent));
  return combine(result, 2 + static_cast<std::uint64_t>(tensor.role));
}

std::optional<Format> ParameterLayout::format(const Tensor& tensor) const {
  if (is_whole(tensor)) return tensor.dtype;
  const Tensor& weight = weight_of(tensor);
  if (find(weight.role) < 0 || !is_stored(weight)) return std::nullopt;
  const std::int32_t number = parameter_of(tensor, find(weight.role));
  if (number < 0) return std::nullopt;
  return format_of(parameter(number), tensor);
}

Format ParameterLayout::format_of(const Parameter& parameter, const Tensor& tensor) const {
  if (tensor.scale_of >= 0) return parameter.own_dtype.value_or(tensor.dtype);
  if (tensor.scales >= 0 && is_quantised_) return {DType::f8_e4m3, Conversion::block_scaled};
  const DType kept = parameter.keeps_float32 ? DType::f32 : precision_;
  return {parameter.own_dtype.value_or(kept), parameter.conversion};
}

bool ParameterLayout::is_whole(const Tensor& tensor) const {
  if (tensor.role == Role::unknown) return true;
  return facts_of(tensor.role).is_cache_scale && find(tensor.role) < 0;
}

void ParameterLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  if (is_whole(tensor)) {
    // The key holds its index.
    const StorageKey key{static_cast<std::int32_t>(parameters_.size()), tensor.index, -1};
    out.push_back({Box::whole(tensor.shape), {key, 0, row_major_strides(tensor.shape)}, tensor.dtype});
    return;
  }
  const Tensor& weight = weight_of(tensor);
  if (const auto first = target(weight, rank)) append_to(*first, tensor, rank, out);
  if (const auto second = second_target(weight, rank)) append_to(*second, tensor, rank, out);
}

void ParameterLayout::append_to(const Target& target, const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  const std::int32_t number = parameter_of(tensor, target.parameter);
  if (number < 0) return;
  const Parameter& rule = parameter(number);
  // A tied model's two names stand for the one vocabulary matrix.
  // So do the names of an A that modules have in common.
  const bool is_first = rule.padded_rows > 0 || tensor.role == Role::lora_a;
  Role as = is_first ? rule.components.front().role : weight_of(tensor).role;
  for (const FusedRole& fused : rule.fused_roles) as = fused.shared == as ? fused.expert : as;
  append_pieces(rule, tensor, as, slice_of(rule, target.layer, rank), {number, target.layer, -1, target.chunk},
                format_of(rule, tensor), out);
}

Storage ParameterLayout::storage(const StorageKey& key, Rank rank) const {
  if (static_cast<std::size_t>(key.parameter) == parameters_.size()) {
    const Tensor& tensor = model_[key.layer];
    return {key, tensor.name, tensor.file_shape(), tensor.dtype};
  }
  const Tensor& tensor = tensor_of(key, rank);
  const Parameter& rule = parameter(key.parameter);
  const Shape shape =
      tensor.dimensions.size() > 0 ? tensor.dimensions : storage_shape(rule, tensor, slice_of(rule, key.layer, rank));
  return {key, storage_name(key, tensor, rank), shape, format_of(rule, tensor).dtype};
}

void ParameterLayout::fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const {
  if (static_cast<std::size_t>(key.parameter) == parameters_.size()) return;
  const Parameter& rule = parameter(key.parameter);
  append_fills(rule, tensor_of(key, rank), slice_of(rule, key.layer, rank), key, out);
}

std::vector<StorageKey> ParameterLayout::constant_storages(Rank rank) const {
  std::vector<StorageKey> keys;
  for (const auto& [of, index] : first_tensor_) {
    const Tensor& tensor = model_[index];
    const Tensor& weight = weight_of(tensor);
    for (const auto& found : {target(weight, rank), second_target(weight, rank)}) {
      if (!found) continue;
      const bool is_number = parameter(of.first).constant.has_value();
      const std::int32_t number = is_number ? of.first : parameter_of(tensor, found->parameter);
      const Parameter& rule = parameter(number);
      if (is_constant(rule, tensor, slice_of(rule, found->layer, rank)))
        keys.push_back({number, found->layer, -1, found->chunk});
    }
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

const Tensor& ParameterLayout::tensor_of(const StorageKey& key, Rank rank) const {
  const bool in_decoder = key.layer >= 0 && !is_vision(parameter(key.parameter).components.front().role);
  const auto found = first_tensor_.find({key.parameter, in_decoder ? model_layer(key, rank) : key.layer});
  REFIT_ASSERT(found != first_tensor_.end());
  return model_[found->second];
}

}  // namespace refit::layout
