#include "model/qwen_hybrid.hpp"

#include <fmt/format.h>

namespace refit::model {

namespace {

void read_layer_types(ConfigFile& file, Config& config) {
  constexpr std::string_view kKey = "layer_types";
  for (const std::string& type : file.texts(kKey)) {
    if (type != "linear_attention" && type != "full_attention") {
      file.problem(kKey, fmt::format("must name linear_attention and full_attention only, not {}", type));
    }
    config.mixers.push_back(type == "full_attention" ? Mixer::attention : Mixer::gated_delta_net);
  }
  if (config.layers > 0 && static_cast<std::int64_t>(config.mixers.size()) != config.layers) {
    file.problem(kKey, fmt::format("names {} layers, num_hidden_layers says {}", config.mixers.size(), config.layers));
  }
}

void read_mixers(ConfigFile& file, Config& config) {
  if (file.has("layer_types")) return read_layer_types(file, config);
  const std::int64_t interval = file.count_or("full_attention_interval", 4);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    config.mixers.push_back((layer + 1) % interval == 0 ? Mixer::attention : Mixer::gated_delta_net);
  }
}

void read_gated_delta_net(ConfigFile& file, Config& config) {
  config.gdn = {.key_heads = file.count("linear_num_key_heads"),
                .value_heads = file.count("linear_num_value_heads"),
                .key_dim = file.count("linear_key_head_dim"),
                .value_dim = file.count("linear_value_head_dim"),
                .kernel = file.count("linear_conv_kernel_dim")};
  if (config.gdn.key_heads > 0 && config.gdn.value_heads % config.gdn.key_heads != 0) {
    file.problem("linear_num_key_heads", fmt::format("{} does not divide linear_num_value_heads {}",
                                                     config.gdn.key_heads, config.gdn.value_heads));
  }
}

void add_gated_delta_net(TensorList& list, std::int64_t layer, const AddBlock& inputs) {
  const Config& config = list.config;
  const GatedDeltaNet& gdn = config.gdn;
  const std::string prefix = layer_prefix(list, layer) + "linear_attn.";
  inputs(list, layer);
  list.add(prefix + "conv1d.weight", {2 * gdn.keys() + gdn.values(), 1, gdn.kernel}, Role::gdn_conv, layer);
  list.add(prefix + "A_log", {gdn.value_heads}, Role::gdn_a_log, layer);
  list.add(prefix + "dt_bias", {gdn.value_heads}, Role::gdn_dt_bias, layer);
  list.add(prefix + "norm.weight", {gdn.value_dim}, Role::gdn_out_norm, layer);
  list.add(prefix + "out_proj.weight", {config.hidden_size, gdn.values()}, Role::gdn_out_proj, layer);
}

/// Adds the prediction layer behind the model's layers, built like one with attention; mtp.fc joins embedding and
/// hidden state. Published files may have the layer without saying so in config.json.
void add_prediction(TensorList& list, const AddBlock& mixer, const AddBlock& experts) {
  const Config& config = list.config;
  if (config.truncated || !list.holds("mtp.fc.weight", config.mtp_layers > 0)) return;
  const std::int64_t layer = config.layers;
  const std::int64_t hidden = config.hidden_size;
  list.prediction_prefix = "mtp.";
  list.add("mtp.pre_fc_norm_embedding.weight", {hidden}, Role::mtp_embedding_norm, layer);
  list.add("mtp.pre_fc_norm_hidden.weight", {hidden}, Role::mtp_hidden_norm, layer);
  list.add("mtp.fc.weight", {hidden, 2 * hidden}, Role::mtp_proj, layer);
  add_layer(list, layer, mixer, experts);
  list.add("mtp.norm.weight", {hidden}, Role::mtp_final_norm, layer);
}

}  // namespace

void read_qwen_hybrid_mixers(ConfigFile& file, Config& config) {
  refuse(file, "attention_bias", "biases of attention with an output gate have");
  if (!file.flag_or("attn_output_gate", true)) {
    file.problem("attn_output_gate", "must be true: this family's attention without output gate has no layout rule");
  }
  read_mixers(file, config);
  read_gated_delta_net(file, config);
  constexpr std::string_view kPrediction = "mtp_num_hidden_layers";
  config.mtp_layers = file.number_or(kPrediction, file.number_or("num_nextn_predict_layers", 0));
  if (config.mtp_layers > 1) {
    file.problem(kPrediction, "must be 0 or 1: more layers of multi-token prediction have no layout rule");
  }
}

void read_qwen_hybrid(ConfigFile& file, Config& config) {
  read_qwen_hybrid_mixers(file, config);
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  config.shared_intermediate_size = file.count("shared_expert_intermediate_size");
  read_dense_layers(file, config);
  read_dense_mlp(file, config);
}

void add_separate_gdn_inputs(TensorList& list, std::int64_t layer) {
  const GatedDeltaNet& gdn = list.config.gdn;
  const std::int64_t hidden = list.config.hidden_size;
  const std::string prefix = layer_prefix(list, layer) + "linear_attn.";
  list.add(prefix + "in_proj_qkv.weight", {2 * gdn.keys() + gdn.values(), hidden}, Role::gdn_qkv_proj, layer);
  list.add(prefix + "in_proj_z.weight", {gdn.values(), hidden}, Role::gdn_z_proj, layer);
  list.add(prefix + "in_proj_b.weight", {gdn.value_heads, hidden}, Role::gdn_b_proj, layer);
  list.add(prefix + "in_proj_a.weight", {gdn.value_heads, hidden}, Role::gdn_a_proj, layer);
}

void add_qwen_hybrid(TensorList& list, const AddBlock& gdn_inputs, const AddBlock& experts) {
  const auto mixer = [&](TensorList& to, std::int64_t layer) {
    if (to.config.mixer(layer) == Mixer::attention) {
      add_attention(to, layer, {.qk_norm = true, .output_gate = true});
    } else {
      add_gated_delta_net(to, layer, gdn_inputs);
    }
  };
  const auto all_experts = [&](TensorList& to, std::int64_t layer) {
    const std::string prefix = layer_prefix(to, layer) + "mlp.";
    experts(to, layer);
    add_shared_experts(to, prefix + "shared_expert.", layer);
    to.add(prefix + "shared_expert_gate.weight", {1, to.config.hidden_size}, Role::shared_router, layer);
  };
  add_decoder(list, mixer, all_experts);
  add_prediction(list, mixer, all_experts);
}

}  // namespace refit::model
