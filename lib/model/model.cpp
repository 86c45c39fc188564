#include "model/model.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

/// Every family, sorted by name.
constexpr std::array<const Family*, 10> kFamilies{&kDeepseekV3, &kGptOss, &kLlama,     &kMixtral,  &kNemotronH,
                                                  &kQwen2,      &kQwen3,  &kQwen35Moe, &kQwen3Moe, &kQwen3Next};

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

/// In the order of the enumerators.
constexpr std::string_view kRoleNames[] = {"embedding",
                                           "lm_head",
                                           "final_norm",
                                           "attention_norm",
                                           "mla_norm",
                                           "mamba_norm",
                                           "gdn_norm",
                                           "mlp_norm",
                                           "moe_norm",
                                           "q_proj",
                                           "k_proj",
                                           "v_proj",
                                           "q_proj_bias",
                                           "k_proj_bias",
                                           "v_proj_bias",
                                           "q_gate_proj",
                                           "q_norm",
                                           "k_norm",
                                           "o_proj",
                                           "o_proj_bias",
                                           "sinks",
                                           "q_a_proj",
                                           "q_a_norm",
                                           "q_b_proj",
                                           "kv_a_proj",
                                           "kv_a_norm",
                                           "kv_b_proj",
                                           "mla_o_proj",
                                           "gate_proj",
                                           "up_proj",
                                           "down_proj",
                                           "router",
                                           "router_bias",
                                           "expert_bias",
                                           "expert_gate",
                                           "expert_up",
                                           "expert_down",
                                           "packed_gate_up",
                                           "packed_down",
                                           "interleaved_gate_up",
                                           "interleaved_gate_up_bias",
                                           "transposed_down",
                                           "packed_down_bias",
                                           "latent_in",
                                           "latent_out",
                                           "shared_gate_proj",
                                           "shared_up_proj",
                                           "shared_down_proj",
                                           "shared_router",
                                           "mamba_in_proj",
                                           "mamba_conv_weight",
                                           "mamba_conv_bias",
                                           "mamba_a_log",
                                           "mamba_d",
                                           "mamba_dt_bias",
                                           "mamba_gate_norm",
                                           "mamba_out_proj",
                                           "gdn_qkv_proj",
                                           "gdn_z_proj",
                                           "gdn_b_proj",
                                           "gdn_a_proj",
                                           "gdn_qkvz_proj",
                                           "gdn_ba_proj",
                                           "gdn_conv",
                                           "gdn_a_log",
                                           "gdn_dt_bias",
                                           "gdn_out_norm",
                                           "gdn_out_proj",
                                           "mtp_embedding",
                                           "mtp_hidden_norm",
                                           "mtp_embedding_norm",
                                           "mtp_proj",
                                           "mtp_final_norm",
                                           "mtp_head",
                                           "block_scale",
                                           "q_scale",
                                           "k_scale",
                                           "v_scale",
                                           "listed",
                                           "unknown"};
static_assert(std::size(kRoleNames) == kRoles);

std::string_view name(Role role) { return kRoleNames[static_cast<std::size_t>(role)]; }

std::optional<Mixer> mixer_of(Role role) {
  if (role >= Role::q_proj && role <= Role::mla_o_proj) return Mixer::attention;
  if (role >= Role::mamba_in_proj && role <= Role::mamba_out_proj) return Mixer::mamba;
  if (role >= Role::gdn_qkv_proj && role <= Role::gdn_out_proj) return Mixer::gated_delta_net;
  return std::nullopt;
}

std::set<Mixer> mixers_of(const Model& model) {
  std::set<Mixer> result;
  for (const Tensor& tensor : model.tensors) {
    if (const auto mixer = mixer_of(tensor.role)) result.insert(*mixer);
  }
  return result;
}

Shape Tensor::file_shape() const {
  if (dimensions.size() > 0) return dimensions;
  if (repeats > 1) return {shape[0], shape[2]};
  if (role != Role::interleaved_gate_up && role != Role::interleaved_gate_up_bias) return shape;
  Shape merged;
  for (int d = 0; d + 2 < shape.size(); ++d) merged.push_back(shape[d]);
  merged.push_back(shape[shape.size() - 2] * shape[shape.size() - 1]);
  return merged;
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

void TensorList::add_f32(std::string tensor_name, const Shape& shape, Role role, std::int64_t layer) {
  add(std::move(tensor_name), shape, role, layer);
  tensors.back().dtype = DType::f32;
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
  TensorList list{config, !config.tied || lm_head_present, nullptr, {}};
  family->list(list);
  Model model{config, std::move(list.tensors)};
  quantise(model, config.quantisation, true);
  return model;
}

}  // namespace refit::model
