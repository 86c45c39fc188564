// GLM-4.5, 4.6 and 4.7, their Air versions and models trained from them (Glm4MoeForCausalLM): Qwen3's attention, with
// biases of q, k and v and with norms where config.json says so; DeepSeek-V3's experts and prediction layers. Hugging
// Face transformers, models/glm4_moe.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  config.attention_bias = file.flag_or("attention_bias", false);
  config.qk_norm = file.flag_or("use_qk_norm", false);
  read_deepseek_experts(file, config);
}

void list_tensors(TensorList& list) {
  const AttentionParts parts{.qkv_bias = list.config.attention_bias, .qk_norm = list.config.qk_norm};
  const auto attention = [&](TensorList& to, std::int64_t layer) { add_attention(to, layer, parts); };
  add_decoder(list, attention, add_deepseek_experts);
  add_prediction_layers(list, attention, add_deepseek_experts);
}

}  // namespace

constinit const Family kGlm4Moe{
    .name = "glm4_moe",
    .architecture = "Glm4MoeForCausalLM",
    .model_type = "glm4_moe",
    .read = read,
    .list = list_tensors,
    .facts = {.vllm_float32_router = true, .vllm_cut_shared_experts = true, .vllm_drafter_reads_head = true}};

}  // namespace refit::model
