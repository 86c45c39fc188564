#include <algorithm>
#include <numeric>
#include <set>

#include "train/megatron/pipeline.hpp"
#include "train/megatron/rules.hpp"

namespace refit::train::megatron {
namespace {

using model::Config;
using model::Mixer;

/// Checks that heads can be cut. Returns the mixers for which they cannot; their weights are not checked again.
std::set<Mixer> check_heads(const model::Model& model, std::int64_t tp, std::vector<std::string>& out) {
  const Config& config = model.config;
  const std::set<Mixer> present = model::mixers_of(model);
  std::set<Mixer> wrong;
  const auto require = [&](bool legal, Mixer mixer, const std::string& text) {
    if (legal || !present.contains(mixer)) return;
    out.push_back("train: " + text);
    wrong.insert(mixer);
  };
  const auto divisible = [&](std::int64_t count, Mixer mixer, const char* what) {
    require(count % tp == 0, mixer, fmt::format("{} {} are not divisible by TP{}", count, what, tp));
  };
  const std::int64_t nkv = config.kv_heads;
  divisible(config.attention_heads, Mixer::attention, "attention heads");
  require(config.mla.kv_rank > 0 || nkv % tp == 0 || tp % nkv == 0, Mixer::attention,
          fmt::format("{} KV heads and TP{}: one must divide the other", nkv, tp));
  divisible(config.mamba.heads, Mixer::mamba, "Mamba heads");
  divisible(config.mamba.groups, Mixer::mamba, "Mamba groups");
  divisible(config.gdn.key_heads, Mixer::gated_delta_net, "linear-attention key heads");
  divisible(config.gdn.value_heads, Mixer::gated_delta_net, "linear-attention value heads");
  return wrong;
}

void check_experts(const Config& config, const layout::Parallelism& sizes, std::vector<std::string>& out) {
  if (config.experts == 0 && sizes.ep * sizes.etp > 1) {
    out.push_back(
        fmt::format("train: EP{} and ETP{} on a model without experts; legal: EP1, ETP1", sizes.ep, sizes.etp));
  }
  if (config.experts > 0 && config.experts % sizes.ep != 0) {
    out.push_back(fmt::format("train: {} experts are not divisible by EP{}", config.experts, sizes.ep));
  }
  const std::int64_t per_stage = sizes.tp * sizes.cp * sizes.dp;
  const std::int64_t experts = sizes.ep * sizes.etp;
  if (per_stage % experts != 0) {
    out.push_back(fmt::format(
        "train: EP{}{} does not divide the {} ranks of a stage (TP x CP x DP); legal with DP = a multiple of {} [L1]",
        sizes.ep, sizes.etp > 1 ? fmt::format(" x ETP{}", sizes.etp) : "", per_stage,
        experts / std::gcd(experts, sizes.tp * sizes.cp)));
  }
}

/// Refuses the biases that "Bias in Moe is only supported when ETP==1" excludes (Megatron-Core).
void check_expert_biases(const model::Model& model, std::int64_t etp, std::vector<std::string>& out) {
  if (etp == 1 || !layout::ParameterTable(model).has(model::Role::interleaved_gate_up_bias)) return;
  out.push_back(fmt::format("train: experts with biases and ETP{}: Megatron-Core refuses it; legal: ETP1", etp));
}

/// Checks that a vision tower's heads can be cut. Returns false if not; the tower's weights are not checked then.
bool check_vision(const model::Model& model, const Options& options, std::vector<std::string>& out) {
  const std::int64_t heads = model.config.vision.heads;
  const std::int64_t tp = options.sizes.tp;
  if (heads % tp == 0 || !vision_facts_of(model.config).megatron_transformer) return true;
  out.push_back(fmt::format("train: {} vision heads are not divisible by TP{}", heads, tp));
  return false;
}

/// The outputs of deepstack's mergers are added in the first layers, so the tower's stage must have these layers.
void check_deepstack(const Config& config, const std::vector<std::int64_t>& stages, std::vector<std::string>& out) {
  if (stages.size() < 2 || stages.front() >= config.vision.deepstack) return;
  out.push_back(
      fmt::format("train: the first stage has {} layers, and the vision tower's {} deepstack mergers need as many; set "
                  "first_stage_layers or stage_layers",
                  stages.front(), config.vision.deepstack));
}

/// Checks the sizes of all parameters, except those whose heads were refused already.
void check_parameters(const model::Model& model, const Options& options, const std::set<Mixer>& named,
                      bool vision_is_named, std::vector<std::string>& out) {
  const layout::ParameterTable table(model);
  for (const layout::Parameter& parameter : parameters(model, options)) {
    const model::RoleFacts& facts = facts_of(parameter.components.front().role);
    if (facts.mixer && named.contains(*facts.mixer)) continue;
    if (vision_is_named && facts.place == model::Place::vision) continue;
    const bool expert = parameter.experts != layout::Experts::none;
    const std::int64_t size = expert ? options.sizes.etp : options.sizes.tp;
    const std::string what = indivisible(parameter, table.tensor_of(parameter), size);
    if (what.empty()) continue;
    const bool vocabulary = parameter.padded_rows > 0;
    out.push_back(fmt::format("train: {} are not divisible by {}TP{}{}", what, expert ? "E" : "", size,
                              vocabulary ? "; set train.make_vocab_size_divisible_by" : ""));
  }
}

/// Megatron-Bridge has no mapping of them.
void check_biases(const Config& config, std::vector<std::string>& out) {
  if (config.mlp_bias) out.emplace_back("train: biases of MLPs have no rule for Megatron-Core; use train.trainer fsdp");
}

void check_scales(const model::Model& model, const Options& options, std::vector<std::string>& out) {
  const auto size = [&](const layout::Parameter& parameter) {
    return parameter.experts == layout::Experts::none ? options.sizes.tp : options.sizes.etp;
  };
  for (const std::string& text : scale_violations(model, parameters(model, options), scale_rules(options), size)) {
    out.push_back("train: " + text);
  }
  const bool any_computed = model.quantised_by == model::QuantisedBy::refit;
  if (options.weight_format != StoredFormat::unquantised && any_computed) {
    out.emplace_back(
        "train: weights that the checkpoint does not store quantised are trained as they are; set "
        "train.precision bf16");
  }
}

/// With a pair for each module, CanonicalLoRA interleaves the outputs of q, k and v by whole query groups of a rank.
void check_adapters(const model::Model& model, const Options& options, std::vector<std::string>& out) {
  const layout::AdapterRules rules = adapter_rules(model, options);
  for (const std::string& text : adapter_violations(model, parameters(model, options), rules))
    out.push_back("train: " + text);
  const auto is_of_kv = [&](const model::Tensor& tensor) {
    return tensor.adapters >= 0 && (tensor.role == model::Role::k_proj || tensor.role == model::Role::v_proj);
  };
  const bool cuts_groups = options.sizes.tp > model.config.kv_heads && options.lora == LoraForm::canonical;
  if (cuts_groups && std::ranges::any_of(model.tensors, is_of_kv))
    out.push_back(fmt::format(
        "train: LoRA pairs of k and v for {} KV heads with TP{}: CanonicalLoRA has no rule; use train.lora = fused",
        model.config.kv_heads, options.sizes.tp));
}

/// Checks that the pattern names the model's own mixers.
void check_pattern(const Config& config, std::string pattern, std::vector<std::string>& out) {
  if (pattern.empty()) return;
  std::erase(pattern, '|');
  std::string wanted;
  for (const Mixer mixer : config.mixers) {
    switch (mixer) {
      case Mixer::attention: wanted += '*'; break;
      case Mixer::mamba: wanted += 'M'; break;
      case Mixer::mlp: wanted += '-'; break;
      case Mixer::experts: wanted += 'E'; break;
      case Mixer::gated_delta_net:
        out.push_back("train: hybrid_layer_pattern has no letter for linear attention; use stage_layers");
        return;
    }
  }
  if (pattern == wanted) return;
  out.push_back(fmt::format("train: hybrid_layer_pattern is {} without its bars, the model's layers are {}", pattern,
                            wanted.empty() ? "all alike: leave it out" : wanted));
}

void check_prediction(const Config& config, const Options& options, std::vector<std::string>& out) {
  const std::int64_t stages = options.sizes.pp;
  if (prediction_layers(config, options) == 0 || !config.tied || stages == 1) return;
  out.push_back(fmt::format(
      "train: a tied model with {} MTP layers and PP{}: the last stage's embedding and output layer have no rule; "
      "legal: PP1, or train.mtp = false",
      config.mtp_layers, stages));
}

}  // namespace

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  std::vector<std::string> out;
  Options complete = options;
  complete.sizes = layout::with_data_parallel(options.sizes);
  const std::set<Mixer> named = check_heads(model, complete.sizes.tp, out);
  check_experts(model.config, complete.sizes, out);
  check_expert_biases(model, complete.sizes.etp, out);
  check_prediction(model.config, complete, out);
  check_pipeline(model.config, complete, out);
  check_biases(model.config, out);
  check_pattern(model.config, options.hybrid_layer_pattern, out);
  check_parameters(model, complete, named, !check_vision(model, complete, out), out);
  check_scales(model, complete, out);
  check_adapters(model, complete, out);
  check_deepstack(model.config, split_stages(model.config.layers, complete, out), out);
  return out;
}

}  // namespace refit::train::megatron
