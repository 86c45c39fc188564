// Qwen3-MoE (Qwen3MoeForCausalLM): Qwen3's attention; a router and experts in all layers but those that
// `mlp_only_layers` and `decoder_sparse_step` make dense. Hugging Face transformers, models/qwen3_moe.

#include <fmt/format.h>

#include <algorithm>

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr std::int64_t kMaxExperts = 65536;

/// Checkpoints say num_experts, newer versions of transformers write num_local_experts.
std::int64_t read_experts(ConfigFile& file) {
  const bool local = file.has("num_local_experts");
  if (!local || !file.has("num_experts")) return file.count(local ? "num_local_experts" : "num_experts", kMaxExperts);
  const std::int64_t experts = file.count("num_experts", kMaxExperts);
  if (file.count("num_local_experts", kMaxExperts) != experts) {
    file.problem("num_local_experts", fmt::format("differs from num_experts {}", experts));
  }
  return experts;
}

std::vector<bool> read_dense_layers(ConfigFile& file, std::int64_t layers) {
  const auto dense = file.indices("mlp_only_layers");
  const std::int64_t step = file.count_or("decoder_sparse_step", 1);
  std::vector<bool> result;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    result.push_back((layer + 1) % step != 0 || std::find(dense.begin(), dense.end(), layer) != dense.end());
  }
  const bool any = std::find(result.begin(), result.end(), true) != result.end();
  return any ? result : std::vector<bool>{};
}

void read(ConfigFile& file, Config& config) {
  read_attention_bias(file, config);
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  config.dense_layer = read_dense_layers(file, config.layers);
  // Files without dense layers carry the key all the same, so a wrong value is a mistake either way.
  config.intermediate_size =
      config.dense_layer.empty() ? file.count_or("intermediate_size", 0) : file.count("intermediate_size");
}

void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .qk_norm = true});
}

}  // namespace

constinit const Family kQwen3Moe{"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3_moe", read, list_tensors};

}  // namespace refit::model
