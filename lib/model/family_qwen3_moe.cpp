// Qwen3-MoE (Qwen3MoeForCausalLM, and the language model of Qwen3VLMoeForConditionalGeneration): Qwen3's attention; a
// router and experts in all layers but those that `mlp_only_layers` and `decoder_sparse_step` make dense. Hugging Face
// transformers, models/qwen3_moe.

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

/// Lists the tensors. Qwen3-VL's experts are published packed and transposed.
void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  const ExpertForm form = list.config.vision.depth > 0 ? ExpertForm::transposed : ExpertForm::each;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .qk_norm = true}, {}, {.form = form});
}

}  // namespace

constinit const Family kQwen3Moe{
    .name = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .model_type = "qwen3_moe",
    .read = read,
    .list = list_tensors,
    .composite_architecture = "Qwen3VLMoeForConditionalGeneration",
    .composite_model_type = "qwen3_vl_moe",
    .facts = {.vllm_stages = {.embedding_on_each = true, .norm_on_each = true, .head_on_each = true},
              .vllm_quantised_router = true,
              .sglang = SglangFacts{.head_on_every_stage = true, .trtllm_on_sm100 = true}},
    .tower = &kQwen3Vision};

}  // namespace refit::model
