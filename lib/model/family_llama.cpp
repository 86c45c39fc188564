// Llama (LlamaForCausalLM): the plain decoder, which many models have by names of their own. Hugging Face transformers,
// models/llama; those models are in models/mistral, ministral3, smollm3, granite and cwm.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Alias kAliases[] = {{"CwmForCausalLM", "cwm"},
                              {"GemmaForCausalLM", "gemma"},
                              {"GraniteForCausalLM", "granite"},
                              {"MinistralForCausalLM", "ministral"},
                              {"Ministral3ForCausalLM", "ministral3"},
                              {"MistralForCausalLM", "mistral"},
                              {"SmolLM3ForCausalLM", "smollm3"}};

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
  config.mlp_bias = file.flag_or("mlp_bias", false);
}

void list_tensors(TensorList& list) {
  add_decoder(list, {.qkv_bias = list.config.attention_bias, .o_bias = list.config.attention_bias});
}

}  // namespace

constinit const Family kLlama{
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .model_type = "llama",
    .read = read,
    .list = list_tensors,
    .facts = {.sglang = SglangFacts{.cuts_attention_over_tp = true, .ties_without_head = true}},
    .aliases = kAliases};

}  // namespace refit::model
