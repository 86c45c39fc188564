// Qwen3 (Qwen3ForCausalLM, and the language model of Qwen3VLForConditionalGeneration): Llama's decoder with norms of q
// and k. Hugging Face transformers, models/qwen3.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Alias kAliases[] = {{"", "qwen3_vl_text"}};

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
  require_qk_norm(file);
}

void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .qk_norm = true});
}

}  // namespace

constinit const Family kQwen3{.name = "qwen3",
                              .architecture = "Qwen3ForCausalLM",
                              .model_type = "qwen3",
                              .read = read,
                              .list = list_tensors,
                              .composite_architecture = "Qwen3VLForConditionalGeneration",
                              .composite_model_type = "qwen3_vl",
                              .facts = {.sglang = SglangFacts{}},
                              .tower = &kQwen3Vision,
                              .aliases = kAliases};

}  // namespace refit::model
