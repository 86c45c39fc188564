#include "model/decoder.hpp"

#include <fmt/format.h>

namespace refit::model {

namespace {

std::string layer_prefix(std::int64_t layer) { return fmt::format("model.layers.{}.", layer); }

void add_layer(TensorList& list, std::int64_t layer, const AttentionParts& parts) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(layer);
  list.add(prefix + "input_layernorm.weight", {config.hidden_size}, Role::input_norm, layer);
  add_attention(list, layer, parts);
  list.add(prefix + "post_attention_layernorm.weight", {config.hidden_size}, Role::post_attention_norm, layer);
  if (config.is_moe(layer)) {
    add_experts(list, layer);
  } else {
    add_gated_mlp(list, prefix + "mlp.", config.intermediate_size, layer);
  }
}

}  // namespace

void add_attention(TensorList& list, std::int64_t layer, const AttentionParts& parts) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(layer) + "self_attn.";
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q_rows = config.attention_heads * config.head_dim;
  const std::int64_t kv_rows = config.kv_heads * config.head_dim;
  list.add(prefix + "q_proj.weight", {q_rows, hidden}, Role::q_proj, layer);
  if (parts.qkv_bias) list.add(prefix + "q_proj.bias", {q_rows}, Role::q_proj_bias, layer);
  list.add(prefix + "k_proj.weight", {kv_rows, hidden}, Role::k_proj, layer);
  if (parts.qkv_bias) list.add(prefix + "k_proj.bias", {kv_rows}, Role::k_proj_bias, layer);
  list.add(prefix + "v_proj.weight", {kv_rows, hidden}, Role::v_proj, layer);
  if (parts.qkv_bias) list.add(prefix + "v_proj.bias", {kv_rows}, Role::v_proj_bias, layer);
  if (parts.qk_norm) list.add(prefix + "q_norm.weight", {config.head_dim}, Role::q_norm, layer);
  if (parts.qk_norm) list.add(prefix + "k_norm.weight", {config.head_dim}, Role::k_norm, layer);
  list.add(prefix + "o_proj.weight", {hidden, q_rows}, Role::o_proj, layer);
  if (parts.o_bias) list.add(prefix + "o_proj.bias", {hidden}, Role::o_proj_bias, layer);
}

void add_gated_mlp(TensorList& list, const std::string& prefix, std::int64_t intermediate, std::int64_t layer,
                   std::int64_t expert) {
  const std::int64_t hidden = list.config.hidden_size;
  list.add(prefix + "gate_proj.weight", {intermediate, hidden}, Role::gate_proj, layer, expert);
  list.add(prefix + "up_proj.weight", {intermediate, hidden}, Role::up_proj, layer, expert);
  list.add(prefix + "down_proj.weight", {hidden, intermediate}, Role::down_proj, layer, expert);
}

void add_experts(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(layer) + "mlp.";
  list.add(prefix + "gate.weight", {config.experts, config.hidden_size}, Role::router, layer);
  for (std::int64_t expert = 0; expert < config.experts; ++expert) {
    add_gated_mlp(list, fmt::format("{}experts.{}.", prefix, expert), config.expert_intermediate_size, layer, expert);
  }
}

void add_decoder(TensorList& list, const AttentionParts& parts) {
  const Config& config = list.config;
  const Shape vocabulary{config.vocab_size, config.hidden_size};
  list.add("model.embed_tokens.weight", vocabulary, Role::embedding);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) add_layer(list, layer, parts);
  list.add("model.norm.weight", {config.hidden_size}, Role::final_norm);
  if (list.lm_head) list.add("lm_head.weight", vocabulary, Role::lm_head);
}

void read_attention_bias(ConfigFile& file, Config& config) {
  config.attention_bias = file.flag_or("attention_bias", false);
}

void read_dense_mlp(ConfigFile& file, Config& config) { config.intermediate_size = file.count("intermediate_size"); }

}  // namespace refit::model
