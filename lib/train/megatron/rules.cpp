#include "train/megatron/rules.hpp"

#include <fmt/format.h>

namespace refit::train::megatron {

using layout::Parameter;
using model::Role;

namespace {

/// Returns a vocabulary's parameter. In a tied model both parameters carry both names of the one matrix.
Parameter vocabulary(const Rules& rules, std::string name, Role role) {
  const std::int64_t multiple = rules.options.make_vocab_size_divisible_by;
  const bool tied = rules.config.tied;
  Parameter parameter{std::move(name), {rules.table.all(tied ? Role::embedding : role)}};
  if (tied) parameter.components.push_back(rules.table.all(Role::lm_head));
  parameter.padded_rows =
      multiple == 0 ? rules.config.vocab_size : round_up(rules.config.vocab_size, multiple * rules.tp());
  return parameter;
}

}  // namespace

/// Both matrices are padded with zeros at the end, then cut by rows. A tied model without pipeline stages has no
/// output_layer: its logits read the embedding. With stages it has a second copy of the embedding on the last, whether
/// or not the checkpoint has a head.
void add_vocabulary(Rules& rules) {
  rules.table.add(vocabulary(rules, "embedding.word_embeddings.weight", Role::embedding));
  if (!rules.config.tied || rules.options.sizes.pp > 1) {
    rules.table.add(vocabulary(rules, std::string(kOutputLayer), Role::lm_head));
  }
  const bool hybrid = facts_of(rules.config).megatron_hybrid_model;
  rules.table.whole(hybrid ? "decoder.final_norm.weight" : "decoder.final_layernorm.weight", Role::final_norm);
}

/// Hugging Face's names are enorm, hnorm, eh_proj and shared_head.norm. Megatron reads its own embedding and output
/// layer.
void add_multi_token_prediction(Rules& rules) {
  rules.table.whole("enorm.weight", Role::mtp_embedding_norm);
  rules.table.whole("hnorm.weight", Role::mtp_hidden_norm);
  rules.table.rows("eh_proj.weight", Role::mtp_proj, rules.tp());
  rules.table.whole("final_layernorm.weight", Role::mtp_final_norm);
}

std::int64_t prediction_layers(const model::Config& config, const Options& options) {
  return facts_of(config).megatron_skips_prediction || !options.mtp ? 0 : config.mtp_layers;
}

layout::ScaleRules scale_rules(const Options& options) {
  const bool mx = options.weight_format == StoredFormat::mxfp8;
  const bool pads = mx || options.weight_format == StoredFormat::fp8_block;
  return {options.weight_format, true, mx ? 128 : 1, pads ? 4 : 1};
}

namespace {

/// Returns the word by which CanonicalLoRA tells the modules of a fused parameter apart.
std::string_view adapter_word(Role role) {
  switch (role) {
    case Role::q_proj: return "adapter_q.";
    case Role::k_proj: return "adapter_k.";
    case Role::v_proj: return "adapter_v.";
    case Role::gate_proj:
    case Role::shared_gate_proj: return "adapter_gate.";
    case Role::up_proj:
    case Role::shared_up_proj: return "adapter_up.";
    default: return "";
  }
}

}  // namespace

layout::AdapterRules adapter_rules(const model::Model& model, const Options& options) {
  layout::AdapterRules rules;
  rules.are_kept = model.adapters.has_value();
  rules.name = [](const layout::AdapterMatrix& matrix) {
    constexpr std::string_view kWeight = ".weight";
    const std::string& weight = matrix.weight.name;
    return fmt::format("{}.adapter.{}{}.weight", weight.substr(0, weight.size() - kWeight.size()),
                       matrix.is_fused ? "" : adapter_word(matrix.role), matrix.is_a ? "linear_in" : "linear_out");
  };
  rules.cuts_both = true;
  rules.fuses = options.lora == LoraForm::fused;
  rules.fuses_experts = true;
  rules.ranks = [tp = options.sizes.tp, etp = options.sizes.etp](const Parameter& parameter) {
    return parameter.experts == layout::Experts::none ? tp : etp;
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
  add_multi_token_prediction(rules);
  add_vision(rules);
  return rules.table.take();
}

}  // namespace refit::train::megatron
