// Llama 4 (Llama4ForCausalLM, and the language model of Llama4ForConditionalGeneration): attention whose rotary pairs
// are neighbouring rows; experts, packed and transposed, beside a shared one in some layers. Hugging Face transformers,
// models/llama4.

#include <fmt/format.h>

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

/// Reads which layers have experts: those of `moe_layers`, or every interleave_moe_layer_step-th one; others are dense.
void read_moe_layers(ConfigFile& file, Config& config) {
  const std::int64_t step = file.count_or("interleave_moe_layer_step", 1);
  config.dense_layer.assign(static_cast<std::size_t>(config.layers), true);
  const auto set = [&](std::int64_t layer) { config.dense_layer[static_cast<std::size_t>(layer)] = false; };
  if (!file.has("moe_layers")) {
    for (std::int64_t layer = step - 1; layer < config.layers; layer += step) set(layer);
    return;
  }
  for (const std::int64_t layer : file.indices("moe_layers")) {
    if (layer >= config.layers) {
      return file.problem("moe_layers", fmt::format("names layer {} of {}", layer, config.layers));
    }
    set(layer);
  }
}

void read(ConfigFile& file, Config& config) {
  refuse(file, "attention_bias", "biases of this family's attention have");
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("intermediate_size");
  config.shared_intermediate_size = config.expert_intermediate_size;
  config.intermediate_size = file.count("intermediate_size_mlp");
  read_moe_layers(file, config);
  static_cast<void>(file.has("use_qk_norm"));  // without weights
  // Blocks of quantised rows cannot be sorted, so q and k are not quantised, nor is v, which is in the same parameter.
  config.not_converted.emplace_back("*.self_attn.v_proj");
  if (file.count_or("head_dim", 2) % 2 != 0) file.problem("head_dim", "must be even: a head's rows are rotary pairs");
}

std::string feed_forward(const TensorList& list, std::int64_t layer) {
  return layer_prefix(list.config, layer) + "feed_forward.";
}

void add_llama4_experts(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = feed_forward(list, layer);
  const std::int64_t experts = config.experts;
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t intermediate = config.expert_intermediate_size;
  list.add(prefix + "router.weight", {experts, hidden}, Role::router, layer);
  list.add(prefix + "experts.gate_up_proj", {experts, hidden, 2 * intermediate}, Role::transposed_gate_up, layer);
  list.add(prefix + "experts.down_proj", {experts, intermediate, hidden}, Role::transposed_down, layer);
  add_shared_experts(list, prefix + "shared_expert.", layer);
}

void list_tensors(TensorList& list) {
  const auto attention = [](TensorList& to, std::int64_t layer) { add_attention(to, layer, {.paired = true}); };
  const auto dense = [](TensorList& to, std::int64_t layer) { add_dense_mlp(to, feed_forward(to, layer), layer); };
  add_decoder(list, attention, add_llama4_experts, {.dense = dense});
}

}  // namespace

constinit const Family kLlama4{.name = "llama4",
                               .architecture = "Llama4ForCausalLM",
                               .model_type = "llama4_text",
                               .read = read,
                               .list = list_tensors,
                               .composite_architecture = "Llama4ForConditionalGeneration",
                               .composite_model_type = "llama4"};

}  // namespace refit::model
