#include "gen/vllm/rules.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace refit::gen::vllm {

using layout::Parameter;
using model::Role;

namespace {

/// The size to a multiple of which vLLM pads every vocabulary (DEFAULT_VOCAB_PADDING_SIZE).
constexpr std::int64_t kVocabularyMultiple = 64;

}  // namespace

/// A tied model has a head of its own only if the checkpoint has one. A replicated embedding is whole on every rank.
void add_vocabulary(Rules& rules) {
  for (const Role role : {Role::embedding, Role::lm_head, Role::mtp_embedding, Role::mtp_head}) {
    Parameter parameter{"", {rules.table.all(role)}};
    const bool is_embedding = role == Role::embedding || role == Role::mtp_embedding;
    if (is_embedding && rules.options.replicate_embedding) {
      parameter.row_multiple = kVocabularyMultiple;
    } else {
      parameter.padded_rows = round_up(rules.config.vocab_size, kVocabularyMultiple);
    }
    rules.table.add(std::move(parameter));
  }
  for (const Role role : {Role::final_norm, Role::mtp_embedding_norm, Role::mtp_hidden_norm, Role::mtp_final_norm}) {
    rules.table.whole("", role);
  }
  const bool cut = rules.options.mtp != Mtp::off && facts_of(rules.config).vllm_drafter_cuts_proj;
  rules.table.rows("", Role::mtp_proj, cut ? rules.tp() : 1);
}

/// Constructors set all scales of FP8 experts to 1, and those of MXFP4 to 0, and those of padding keep these values.
layout::ScaleRules scale_rules(const model::Model& model, const Options& options) {
  layout::ScaleRules rules{options.weight_format,         false, 1, 1, is_packed(options.weight_format) ? 0.0 : 1.0,
                           scale_repeats(model, options), true};
  if (model.quantisation.naming == model::Naming::fbgemm_fp8)
    rules.constants.emplace_back("input_scale_ub", model.quantisation.input_scale_bound);
  const bool is_flashinfer = options.moe_backend == MoeBackend::flashinfer_cutlass;
  rules.input_scales_of_all = model.quantisation.naming == model::Naming::modelopt && is_flashinfer;
  return rules;
}

std::int64_t max_lora_rank(const model::Model& model) {
  constexpr std::int64_t kRanks[] = {1, 8, 16, 32, 64, 128, 256, 320, 512};
  std::int64_t needed = 1;
  for (const model::Tensor& tensor : model.tensors)
    if (tensor.role == Role::lora_a) needed = std::max(needed, tensor.shape[0]);
  const auto* found = std::ranges::lower_bound(kRanks, needed);
  return found == std::end(kRanks) ? 0 : *found;
}

layout::AdapterRules adapter_rules(const model::Model& model, const Options& options) {
  layout::AdapterRules rules;
  rules.are_kept = model.adapters == model::SendAdapters::apart;
  if (!rules.are_kept) return rules;
  rules.name = [](const layout::AdapterMatrix& matrix) {
    constexpr std::string_view kWeight = "weight";
    const std::string& weight = matrix.weight.name;
    const bool is_of_experts = matrix.weight.experts != layout::Experts::none;
    return fmt::format("{}lora_{}_stacked.{}", is_of_experts ? weight.substr(0, weight.size() - kWeight.size()) : "",
                       matrix.is_a ? "a" : "b", matrix.slice);
  };
  rules.rank_multiple = std::max<std::int64_t>(max_lora_rank(model), 1);
  rules.ranks = [options](const Parameter& parameter) {
    if (parameter.experts == layout::Experts::none) return options.sizes.tp;
    return options.sizes.ep > 1 ? 1 : options.moe_ranks();
  };
  return rules;
}

std::vector<Parameter> parameters(const model::Model& model, const Options& options) {
  Rules rules{model.config, options, layout::ParameterTable(model)};
  add_vocabulary(rules);
  add_attention(rules);
  add_latent_attention(rules);
  add_mlp(rules);
  add_experts(rules);
  add_mamba(rules);
  add_gated_delta_net(rules);
  add_vision(rules);
  return rules.table.take();
}

}  // namespace refit::gen::vllm
