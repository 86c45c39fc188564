#include "model/deepseek_blocks.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace refit::model {

namespace {

void check_length(ConfigFile& file, std::string_view key, const Config& config, std::size_t layers) {
  if (config.layers == 0 || static_cast<std::int64_t>(layers) == config.layers) return;
  file.problem(key, fmt::format("names {} layers, num_hidden_layers says {}", layers, config.layers));
}

/// Reads a list of one entry per layer.
std::vector<bool> shared_by_types(ConfigFile& file, const Config& config) {
  constexpr std::string_view kKey = "indexer_types";
  std::vector<bool> shared;
  for (const std::string& type : file.texts(kKey)) {
    if (type != "full" && type != "shared") {
      file.problem(kKey, fmt::format("must name full and shared only, not {}", type));
    }
    shared.push_back(type == "shared");
  }
  check_length(file, kKey, config, shared.size());
  return shared;
}

/// Reads a pattern of one letter per layer, F or S.
std::vector<bool> shared_by_pattern(ConfigFile& file, const Config& config) {
  constexpr std::string_view kKey = "index_topk_pattern";
  std::vector<bool> shared;
  for (const char letter : file.text(kKey, static_cast<std::size_t>(kMaxLayers))) {
    if (letter != 'F' && letter != 'S') file.problem(kKey, fmt::format("must consist of F and S, not {}", letter));
    shared.push_back(letter == 'S');
  }
  check_length(file, kKey, config, shared.size());
  return shared;
}

std::vector<bool> shared_by_distance(ConfigFile& file, const Config& config) {
  const std::int64_t every = file.count_or("index_topk_freq", 1);
  const std::int64_t offset = file.number_or("index_skip_topk_offset", 2);
  std::vector<bool> shared;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    shared.push_back(std::max<std::int64_t>(layer - offset + 1, 0) % every != 0);
  }
  return shared;
}

/// Reads these keys in the order of transformers' GlmMoeDsaConfig.
std::vector<bool> read_shared(ConfigFile& file, const Config& config) {
  if (file.has("indexer_types")) {
    for (const char* same : {"index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"}) {
      static_cast<void>(file.has(same));
    }
    return shared_by_types(file, config);
  }
  return file.has("index_topk_pattern") ? shared_by_pattern(file, config) : shared_by_distance(file, config);
}

/// Returns true where a layer has an indexer. A prediction layer may share the last layer's, which only a checkpoint
/// shows.
bool has_indexer(const TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Indexer& indexer = list.config.indexer;
  const auto at = static_cast<std::size_t>(layer);
  if (indexer.heads == 0 || (at < indexer.shared.size() && indexer.shared[at])) return false;
  return layer < list.config.layers || list.holds(prefix + "wk.weight", true);
}

void add_indexer(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  const Indexer& indexer = config.indexer;
  list.add(prefix + "wq_b.weight", {indexer.heads * indexer.head_dim, config.mla.q_rank}, Role::indexer_q_proj, layer);
  list.add(prefix + "wk.weight", {indexer.head_dim, config.hidden_size}, Role::indexer_k_proj, layer);
  list.add(prefix + "k_norm.weight", {indexer.head_dim}, Role::indexer_k_norm, layer);
  list.add(prefix + "k_norm.bias", {indexer.head_dim}, Role::indexer_k_norm_bias, layer);
  list.add(prefix + "weights_proj.weight", {indexer.heads, config.hidden_size}, Role::indexer_weights_proj, layer);
}

}  // namespace

void read_latent_attention(ConfigFile& file, Config& config) {
  if (file.has("q_lora_rank")) {
    config.mla.q_rank = file.count("q_lora_rank");
  } else if (!file.names("q_lora_rank")) {
    file.problem("q_lora_rank", "is missing; null says that queries have one matrix");
  }
  config.mla.kv_rank = file.count("kv_lora_rank");
  config.mla.nope_dim = file.count("qk_nope_head_dim");
  config.mla.rope_dim = file.count("qk_rope_head_dim");
  config.mla.value_dim = file.count("v_head_dim");
  config.kv_heads = config.attention_heads;  // each head has its own key and value
  config.head_dim = config.mla.nope_dim + config.mla.rope_dim;
  refuse(file, "attention_bias", "biases of latent attention have");
  refuse(file, "mlp_bias", "MLP biases have");
}

void read_indexer(ConfigFile& file, Config& config) {
  if (!file.has("q_lora_rank")) file.problem("q_lora_rank", "is missing: the indexer reads what it compresses");
  config.indexer = {file.count("index_n_heads"), file.count("index_head_dim")};
  config.indexer.shared = read_shared(file, config);
  static_cast<void>(file.has("index_topk"));
}

void read_deepseek_experts(ConfigFile& file, Config& config, bool selects_by_bias) {
  config.experts = read_experts(file, "n_routed_experts");
  config.expert_groups = file.number_or("n_group", 1, kMaxExperts);
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  config.shared_intermediate_size =
      file.number_or("n_shared_experts", 0, kMaxExperts) * config.expert_intermediate_size;
  config.expert_bias = file.has("topk_method") ? file.text("topk_method") == "noaux_tc" : selects_by_bias;
  config.mtp_layers = file.number_or("num_nextn_predict_layers", 0, kMaxLayers);
  read_first_dense_layers(file, config);
  read_dense_mlp(file, config);
}

void add_latent_attention(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const LatentAttention& mla = config.mla;
  const std::string prefix = layer_prefix(config, layer) + "self_attn.";
  const std::int64_t heads = config.attention_heads;
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q_rows = heads * (mla.nope_dim + mla.rope_dim);
  if (mla.q_rank == 0) {
    list.add(prefix + "q_proj.weight", {q_rows, hidden}, Role::mla_q_proj, layer);
  } else {
    list.add(prefix + "q_a_proj.weight", {mla.q_rank, hidden}, Role::q_a_proj, layer);
    list.add(prefix + "q_a_layernorm.weight", {mla.q_rank}, Role::q_a_norm, layer);
    list.add(prefix + "q_b_proj.weight", {q_rows, mla.q_rank}, Role::q_b_proj, layer);
  }
  list.add(prefix + "kv_a_proj_with_mqa.weight", {mla.kv_rank + mla.rope_dim, hidden}, Role::kv_a_proj, layer);
  list.add(prefix + "kv_a_layernorm.weight", {mla.kv_rank}, Role::kv_a_norm, layer);
  list.add(prefix + "kv_b_proj.weight", {heads * (mla.nope_dim + mla.value_dim), mla.kv_rank}, Role::kv_b_proj, layer);
  list.add(prefix + "o_proj.weight", {hidden, heads * mla.value_dim}, Role::mla_o_proj, layer);
  if (has_indexer(list, prefix + "indexer.", layer)) add_indexer(list, prefix + "indexer.", layer);
}

void add_deepseek_experts(TensorList& list, std::int64_t layer) {
  add_experts(list, layer);
  add_shared_experts(list, layer_prefix(list.config, layer) + "mlp.shared_experts.", layer);
}

void add_deepseek(TensorList& list) {
  add_decoder(list, add_latent_attention, add_deepseek_experts);
  add_prediction_layers(list, add_latent_attention, add_deepseek_experts);
}

}  // namespace refit::model
