#include "model/model.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

/// Every family, sorted by name.
constexpr std::array<const Family*, 4> kFamilies{&kLlama, &kQwen2, &kQwen3, &kQwen3Moe};

}  // namespace

std::span<const Family* const> families() { return kFamilies; }

const Family* find_family(std::string_view name) {
  const auto found =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](auto* family) { return family->name == name; });
  return found == kFamilies.end() ? nullptr : *found;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family* family : kFamilies) names.emplace_back(family->name);
  return names;
}

std::string_view name(Role role) {
  switch (role) {
    case Role::embedding: return "embedding";
    case Role::lm_head: return "lm_head";
    case Role::final_norm: return "final_norm";
    case Role::input_norm: return "input_norm";
    case Role::post_attention_norm: return "post_attention_norm";
    case Role::q_proj: return "q_proj";
    case Role::k_proj: return "k_proj";
    case Role::v_proj: return "v_proj";
    case Role::q_proj_bias: return "q_proj_bias";
    case Role::k_proj_bias: return "k_proj_bias";
    case Role::v_proj_bias: return "v_proj_bias";
    case Role::q_norm: return "q_norm";
    case Role::k_norm: return "k_norm";
    case Role::o_proj: return "o_proj";
    case Role::o_proj_bias: return "o_proj_bias";
    case Role::gate_proj: return "gate_proj";
    case Role::up_proj: return "up_proj";
    case Role::down_proj: return "down_proj";
    case Role::router: return "router";
    case Role::unknown: return "unknown";
  }
  return "unknown";
}

void TensorList::add(std::string tensor_name, const Shape& shape, Role role, std::int64_t layer, std::int64_t expert) {
  tensors.push_back({.index = static_cast<std::int32_t>(tensors.size()),
                     .name = std::move(tensor_name),
                     .shape = shape,
                     .dtype = config.dtype,
                     .role = role,
                     .layer = static_cast<std::int32_t>(layer),
                     .expert = static_cast<std::int32_t>(expert)});
}

const Tensor& Model::canonical(const Tensor& tensor) const {
  if (!config.tied || tensor.role != Role::lm_head) return tensor;
  const auto is_embedding = [](const Tensor& other) { return other.role == Role::embedding; };
  const auto found = std::find_if(tensors.begin(), tensors.end(), is_embedding);
  REFIT_ASSERT(found != tensors.end());
  return *found;
}

const Tensor* Model::find(std::string_view wanted) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == wanted; });
  return found == tensors.end() ? nullptr : &*found;
}

std::int64_t Model::parameters() const {
  return std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0},
                         [](std::int64_t sum, const Tensor& tensor) { return sum + tensor.elements(); });
}

std::int64_t Model::bytes() const {
  return std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0},
                         [](std::int64_t sum, const Tensor& tensor) { return sum + tensor.bytes(); });
}

Model build_model(const Config& config, bool lm_head_present) {
  const Family* family = find_family(config.family);
  REFIT_ASSERT(family != nullptr);
  TensorList list{config, !config.tied || lm_head_present, {}};
  family->list(list);
  return {config, std::move(list.tensors)};
}

}  // namespace refit::model
