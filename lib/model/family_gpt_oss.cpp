// gpt-oss (GptOssForCausalLM): attention with biases and sinks; experts with biases, packed, transposed and with gate
// and up rows alternating. Hugging Face transformers, models/gpt_oss (experts dequantised from MXFP4).

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{".self_attn.", ".attn."}, {"embed_tokens", "embedding"}};

void read(ConfigFile& file, Config& config) {
  config.attention_bias = file.flag_or("attention_bias", true);
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("intermediate_size");
}

void add_gpt_oss_attention(TensorList& list, std::int64_t layer) {
  const bool bias = list.config.attention_bias;
  add_attention(list, layer, {.qkv_bias = bias, .o_bias = bias, .sinks = true});
}

void add_gpt_oss_experts(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(config, layer) + "mlp.";
  const std::int64_t experts = config.experts;
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t intermediate = config.expert_intermediate_size;
  list.add(prefix + "router.weight", {experts, hidden}, Role::router, layer);
  list.add(prefix + "router.bias", {experts}, Role::router_bias, layer);
  list.add(prefix + "experts.gate_up_proj", {experts, hidden, intermediate, 2}, Role::interleaved_gate_up, layer);
  list.add(prefix + "experts.gate_up_proj_bias", {experts, intermediate, 2}, Role::interleaved_gate_up_bias, layer);
  list.add(prefix + "experts.down_proj", {experts, intermediate, hidden}, Role::transposed_down, layer);
  list.add(prefix + "experts.down_proj_bias", {experts, hidden}, Role::packed_down_bias, layer);
}

void list_tensors(TensorList& list) { add_decoder(list, add_gpt_oss_attention, add_gpt_oss_experts); }

}  // namespace

constinit const Family kGptOss{
    .name = "gpt_oss",
    .architecture = "GptOssForCausalLM",
    .model_type = "gpt_oss",
    .read = read,
    .list = list_tensors,
    .facts = {.vllm_names = kVllmNames,
              .vllm_stages = {.embedding_on_each = true, .norm_on_each = true, .head_on_each = true},
              .vllm_has_eplb = false,
              .sglang = SglangFacts{.head_on_every_stage = true, .config_dtype = true}}};

}  // namespace refit::model
