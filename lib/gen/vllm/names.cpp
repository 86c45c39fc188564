#include "gen/vllm/names.hpp"

#include <span>
#include <string_view>

#include "layout/names.hpp"

namespace refit::gen::vllm {

using layout::Parameter;
using layout::replace_first;
using model::Role;
using model::Tensor;

namespace {

std::string fused_name(const Parameter& parameter, const Tensor& tensor) {
  if (parameter.name.empty() || !parameter.scalar || parameter.constant)
    return layout::fused_name(parameter, tensor, "routed_experts.");
  // In the attention, wherever the checkpoint has it.
  const std::string layer = fmt::format("layers.{}.", tensor.layer);
  const std::size_t attention = tensor.name.find(layer) + layer.size();
  return tensor.name.substr(0, tensor.name.find('.', attention) + 1) + parameter.name;
}

/// Returns the name in the drafter. Its own parts keep their place in the layer, and its decoder layer is called
/// mtp_block; its embedding is named as the drafter model's, and the model's head as the first prediction layer's.
/// Families with other drafter names keep the head's.
std::string drafter_name(const model::Config& config, const std::string& name, const Tensor& tensor) {
  const auto& names = facts_of(config).vllm_drafter_names;
  if (!names.empty()) {
    if (tensor.role == Role::embedding) return "model.embed_tokens.weight";
    std::string result = name;
    for (const auto& [from, to] : names) replace_first(result, from, to);
    return result;
  }
  if (tensor.role == Role::mtp_embedding) return "model.embed_tokens.weight";
  if (tensor.role == Role::lm_head) return fmt::format("model.layers.{}.shared_head.head.weight", config.layers);
  if (tensor.layer < 0) return name;
  const std::string layer = fmt::format("layers.{}.", tensor.layer);
  const std::size_t end = name.find(layer) + layer.size();
  const bool own = facts_of(tensor.role).place == model::Place::prediction;
  return own ? name : name.substr(0, end) + "mtp_block." + name.substr(end);
}

/// Returns whether the language model is part of another model.
bool is_composite(const model::Config& config) {
  return config.vision.depth > 0 || config.prefix.find("language_model.") != std::string::npos;
}

/// Replaces a checkpoint's prefix that is not the family's own, as vLLM's model classes do (WeightsMapper): by that of
/// a language model within another, or by "model.".
void replace_prefix(std::string& name, const model::Config& config) {
  const std::string& prefix = config.prefix;
  if (is_composite(config)) {
    if (name == config.lm_head) name = "lm_head.weight";
    if (name == "lm_head.weight") {
      name.insert(0, "language_model.");
    } else if (name.starts_with(prefix)) {
      name.replace(0, prefix.size(), "language_model.model.");
    }
  } else if (prefix == "transformer.") {
    replace_first(name, prefix, "model.");
  } else if (prefix.empty() && name != config.lm_head) {
    name.insert(0, "model.");
  }
}

}  // namespace

std::string storage_name(const model::Config& config, const Parameter& parameter, const Tensor& tensor, Mtp mtp) {
  const bool beside = mtp == Mtp::with && tensor.layer >= config.layers;
  std::string name = fused_name(parameter, tensor);
  if (tensor.unit >= 0) {
    name.erase(0, config.vision.prefix.size());
    for (const auto& [from, to] : vision_facts_of(config).vllm_names) replace_first(name, from, to);
    return name;
  }
  const bool drafter = mtp == Mtp::only || beside;
  if (drafter) name = drafter_name(config, name, tensor);
  if (drafter && !facts_of(config).vllm_drafter_names.empty()) return beside ? "drafter." + name : name;
  for (const auto& [from, to] : facts_of(config).vllm_names) replace_first(name, from, to);
  replace_prefix(name, config);
  return beside ? "drafter." + name : name;
}

std::string adapter_name(std::string weight, const Parameter& matrix) {
  replace_first(weight, "routed_experts.", "");  // the buffers are the MoE layer's own
  return weight.substr(0, weight.rfind('.') + 1) + matrix.name;
}

}  // namespace refit::gen::vllm
