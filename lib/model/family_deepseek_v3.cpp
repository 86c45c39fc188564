// DeepSeek-V3 (DeepseekV3ForCausalLM): multi-head latent attention; dense layers first, then experts beside shared
// ones; multi-token prediction layers numbered after the last. Hugging Face transformers, models/deepseek_v3; the MTP
// names are those of DeepSeek's own checkpoint.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read_latent_attention(ConfigFile& file, Config& config) {
  if (file.has("q_lora_rank")) {
    config.mla.q_rank = file.count("q_lora_rank");
  } else {
    file.problem("q_lora_rank", "is missing: latent attention with a plain q_proj has no layout rule");
  }
  config.mla.kv_rank = file.count("kv_lora_rank");
  config.mla.nope_dim = file.count("qk_nope_head_dim");
  config.mla.rope_dim = file.count("qk_rope_head_dim");
  config.mla.value_dim = file.count("v_head_dim");
  config.kv_heads = config.attention_heads;  // each head has its own key and value
  config.head_dim = config.mla.nope_dim + config.mla.rope_dim;
  refuse(file, "attention_bias", "biases of latent attention have");
}

void read_dense_layer_count(ConfigFile& file, Config& config) {
  if (read_mlp_layer_types(file, config)) {
    static_cast<void>(file.number_or("first_k_dense_replace", 0));  // says the same
    return;
  }
  if (!file.has("first_k_dense_replace")) file.problem("first_k_dense_replace", "is missing");
  const std::int64_t dense = file.number_or("first_k_dense_replace", 0);
  if (dense > 0) {
    for (std::int64_t layer = 0; layer < config.layers; ++layer) config.dense_layer.push_back(layer < dense);
  }
  if (file.count_or("moe_layer_freq", 1) != 1) {
    file.problem("moe_layer_freq", "must be 1: layers of experts that alternate with dense ones have no layout rule");
  }
}

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  config.experts = read_experts(file, "n_routed_experts");
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  config.shared_intermediate_size =
      file.number_or("n_shared_experts", 0, kMaxExperts) * config.expert_intermediate_size;
  // vLLM has the parameter with noaux_tc only, which is what files without the key mean.
  config.expert_bias = !file.has("topk_method") || file.text("topk_method") == "noaux_tc";
  config.mtp_layers = file.number_or("num_nextn_predict_layers", 0, kMaxLayers);
  read_dense_layer_count(file, config);
  read_dense_mlp(file, config);
}

void add_latent_attention(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const LatentAttention& mla = config.mla;
  const std::string prefix = layer_prefix(config, layer) + "self_attn.";
  const std::int64_t heads = config.attention_heads;
  const std::int64_t hidden = config.hidden_size;
  list.add(prefix + "q_a_proj.weight", {mla.q_rank, hidden}, Role::q_a_proj, layer);
  list.add(prefix + "q_a_layernorm.weight", {mla.q_rank}, Role::q_a_norm, layer);
  list.add(prefix + "q_b_proj.weight", {heads * (mla.nope_dim + mla.rope_dim), mla.q_rank}, Role::q_b_proj, layer);
  list.add(prefix + "kv_a_proj_with_mqa.weight", {mla.kv_rank + mla.rope_dim, hidden}, Role::kv_a_proj, layer);
  list.add(prefix + "kv_a_layernorm.weight", {mla.kv_rank}, Role::kv_a_norm, layer);
  list.add(prefix + "kv_b_proj.weight", {heads * (mla.nope_dim + mla.value_dim), mla.kv_rank}, Role::kv_b_proj, layer);
  list.add(prefix + "o_proj.weight", {hidden, heads * mla.value_dim}, Role::mla_o_proj, layer);
}

void add_deepseek_experts(TensorList& list, std::int64_t layer) {
  add_experts(list, layer);
  add_shared_experts(list, layer_prefix(list.config, layer) + "mlp.shared_experts.", layer);
}

/// Not every checkpoint repeats the embedding and the head, and Megatron-Bridge does not export them.
void add_mtp_layer(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(config, layer);
  const std::int64_t hidden = config.hidden_size;
  const Shape vocabulary{config.vocab_size, hidden};
  const auto add_if_held = [&](const std::string& name, Role role) {
    if (list.holds(name, true)) list.add(name, vocabulary, role, layer);
  };
  add_if_held(prefix + "embed_tokens.weight", Role::mtp_embedding);
  list.add(prefix + "enorm.weight", {hidden}, Role::mtp_embedding_norm, layer);
  list.add(prefix + "hnorm.weight", {hidden}, Role::mtp_hidden_norm, layer);
  list.add(prefix + "eh_proj.weight", {hidden, 2 * hidden}, Role::mtp_proj, layer);
  add_layer(list, layer, add_latent_attention, add_deepseek_experts);
  list.add(prefix + "shared_head.norm.weight", {hidden}, Role::mtp_final_norm, layer);
  add_if_held(prefix + "shared_head.head.weight", Role::mtp_head);
}

void list_tensors(TensorList& list) {
  const Config& config = list.config;
  add_decoder(list, add_latent_attention, add_deepseek_experts);
  for (std::int64_t layer = config.layers; layer < config.layers + config.mtp_layers; ++layer) {
    if (!list.holds(layer_prefix(config, layer) + "enorm.weight", true)) break;  // those behind a gap have no rule
    add_mtp_layer(list, layer);
  }
}

}  // namespace

constinit const Family kDeepseekV3{"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek_v3", read, list_tensors};

}  // namespace refit::model
