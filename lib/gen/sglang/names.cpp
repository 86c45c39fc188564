#include "gen/sglang/names.hpp"

#include <string_view>

#include "layout/names.hpp"

namespace refit::gen::sglang {
namespace {

using model::Tensor;

/// A drafter's only layer is called decoder, and its own parts stand beside it.
std::string drafter_name(const std::string& name, const Tensor& tensor) {
  const std::string layer = fmt::format("layers.{}.", tensor.layer);
  const std::size_t at = name.find(layer);
  const bool own = facts_of(tensor.role).place == model::Place::prediction;
  return name.substr(0, at) + (own ? "" : "decoder.") + name.substr(at + layer.size());
}

/// Where a checkpoint puts another prefix in front of its names, SGLang's classes map it to theirs: "model.".
void replace_prefix(std::string& name, const model::Config& config) {
  if (config.prefix.empty()) {
    if (name != config.lm_head) name.insert(0, "model.");
  } else if (name.starts_with(config.prefix)) {
    name.replace(0, config.prefix.size(), "model.");
  }
}

}  // namespace

/// MXFP8's scales are called as those of blocks.
std::string storage_name(const model::Config& config, const layout::Parameter& parameter, const Tensor& tensor,
                         Mtp mtp) {
  constexpr std::string_view kMxScale = "weight_scale";
  const bool of_drafter = tensor.layer >= config.layers;
  std::string name = layout::fused_name(parameter, tensor, "");
  if (of_drafter) name = drafter_name(name, tensor);
  for (const auto& [from, to] : facts_of(config).sglang->names) layout::replace_first(name, from, to);
  replace_prefix(name, config);
  if (name.ends_with(kMxScale)) name += "_inv";
  return of_drafter && mtp == Mtp::with ? "drafter." + name : name;
}

}  // namespace refit::gen::sglang
