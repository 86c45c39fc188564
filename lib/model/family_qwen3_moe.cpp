// Qwen3-MoE (Qwen3MoeForCausalLM): Qwen3's attention; a router and experts in all layers but those that
// `mlp_only_layers` and `decoder_sparse_step` make dense. Hugging Face transformers, models/qwen3_moe.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_attention_bias(file, config);
  require_qk_norm(file);
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  read_dense_layers(file, config);
  read_dense_mlp(file, config);
}

void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .qk_norm = true});
}

}  // namespace

constinit const Family kQwen3Moe{
    .name = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .model_type = "qwen3_moe",
    .read = read,
    .list = list_tensors,
    .facts = {.vllm_quantised_router = true,
              .sglang = SglangFacts{.head_on_every_stage = true, .trtllm_on_sm100 = true}}};

}  // namespace refit::model
